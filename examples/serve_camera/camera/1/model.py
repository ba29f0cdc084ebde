"""JPEG files to boxes in Triton's Python backend: decoded on the GPU, then the engine of models/camera.py.

The images of all requests that wait run together, in batches that the engine takes. Images and boxes stay on the GPU
until the server sends the boxes.
"""

import json
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

import bridge
from bridge.io import batch, decode_jpeg

ENGINE = "camera.engine"
STEP = 256  # heights and widths of batches are multiples of it, so that few shapes come


class TritonPythonModel:
    """One instance, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine beside this file."""
        folder = Path(args["model_repository"], args["model_version"])
        self._device = torch.device("cuda", int(args["model_instance_device_id"]))
        torch.cuda.set_device(self._device)
        self._engine = bridge.load(folder / ENGINE)
        images = self._engine.file.inputs[0]
        self._least, self._most, self._sides = images.min[0], images.max[0], images.max[2:]
        self._names = [each["name"] for each in json.loads(args["model_config"])["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request. A file that cannot be decoded is an error of its request alone."""
        files = [
            pb_utils.get_input_tensor_by_name(request, "file").as_numpy().reshape(-1).tolist() for request in requests
        ]
        decoded = [self._decoded(each) for each in files]
        images = [image for each in decoded if isinstance(each, list) for image in each]
        try:
            found = self._detect(images) if images else {}
        except bridge.BridgeError as error:
            return [self._error(error) for _ in requests]
        responses, start = [], 0
        for each in decoded:
            if not isinstance(each, list):
                responses.append(self._error(each))
                continue
            rows = slice(start, start + len(each))
            start += len(each)
            tensors = [pb_utils.Tensor.from_dlpack(name, found[name][rows].contiguous()) for name in self._names]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses

    def _decoded(self, files: list[bytes]) -> list[torch.Tensor] | bridge.BridgeError:
        try:
            images = decode_jpeg(files, self._device)
        except bridge.BridgeError as error:
            return error
        for image in images:
            if image.shape[1] > self._sides[0] or image.shape[2] > self._sides[1]:
                sizes = f"{image.shape[1]} x {image.shape[2]} pixels, and the engine takes at most {self._sides[0]}"
                return bridge.errors.EngineInputError(f"a picture has {sizes} x {self._sides[1]}")
        return images

    def _detect(self, images: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The engine's results for any number of images."""
        size = tuple(
            min(most, -(-max(image.shape[axis] for image in images) // STEP) * STEP)
            for axis, most in zip((1, 2), self._sides, strict=True)
        )
        parts = []
        for start in range(0, len(images), self._most):
            some = images[start : start + self._most]
            padded = some + some[-1:] * (self._least - len(some))  # the engine's least batch
            found = self._engine(*batch(padded, size))
            parts.append({name: tensor[: len(some)] for name, tensor in found.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in self._names}

    def _error(self, error: bridge.BridgeError) -> Any:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
