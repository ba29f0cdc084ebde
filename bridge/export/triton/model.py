"""Serves the engine file beside it by bridge's runtime, for the Python backend of Triton Inference Server.

`bridge export --to triton` writes a copy of this file into a model repository. The Python of the server's instances
needs bridge with the TensorRT that built the engine.
"""

import json
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from bridge.errors import BridgeError, EngineInputError
from bridge.export.triton.service import Answer, Service


class TritonPythonModel:
    """The class that the backend looks for: one instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine. What it raises is the reason why the model is not ready."""
        folder = Path(args["model_repository"], args["model_version"])
        gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
        self._service = Service(folder, gpu, json.loads(args["model_config"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request."""
        given = [[_tensor(request, name) for name in self._service.inputs] for request in requests]
        return [self._response(answer) for answer in self._service.answer(given)]

    def _response(self, answer: Answer) -> Any:
        if isinstance(answer, BridgeError):
            codes = pb_utils.TritonError
            code = codes.INVALID_ARG if isinstance(answer, EngineInputError) else codes.INTERNAL
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer), code))
        results = zip(self._service.outputs, answer, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(each.name, value) for each, value in results])


def _tensor(request: Any, name: str) -> torch.Tensor:
    return torch.utils.dlpack.from_dlpack(pb_utils.get_input_tensor_by_name(request, name))
