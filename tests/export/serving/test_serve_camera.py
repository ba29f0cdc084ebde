"""examples/serve_camera: JPEG files of several requests give each its boxes; a bad file is an error of its own request.

The server is a stand-in, and so is the engine where there is no GPU: the model itself in PyTorch, on the CPU.
"""

import importlib.util
import io
import json
import sys
import types
from pathlib import Path

import numpy
import pytest
import torch

import bridge
from bridge.engine_file.contents import TensorSpec
from bridge.io import batch, decode_jpeg

pytest.importorskip("torchvision", reason="needs torchvision")
Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
EXAMPLE = Path(__file__).parents[3] / "examples/serve_camera/camera"
SIZES = [(40, 64), (33, 20), (90, 70)]


class Tensor:
    """pb_utils.Tensor."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    @classmethod
    def from_dlpack(cls, name, value):
        return cls(name, value)

    def as_numpy(self):
        return self.value


class TritonError(Exception):
    """pb_utils.TritonError."""

    INVALID_ARG, INTERNAL = "invalid", "internal"

    def __init__(self, text, code=None):
        super().__init__(text)
        self.code = code


class Detector(torch.nn.Module):
    """Deterministic boxes: they tell images and batches apart."""

    def forward(self, images, boxes):
        x = bridge.preprocess(images, boxes=boxes, layout="nchw", output_size=8)
        scores = x.flatten(1)[:, :5]
        return {"scores": scores, "labels": boxes[:, 2:3].expand(-1, 5), "boxes": scores[..., None].expand(-1, -1, 4)}


class Loaded:
    """The engine as bridge.load gives it, which takes 2 to 4 images of up to 100 x 128 pixels."""

    def __init__(self):
        spec = TensorSpec("images", "uint8", (2, 3, 1, 1), (2, 3, 64, 64), (4, 3, 100, 128))
        self.file, self.batches = types.SimpleNamespace(inputs=(spec,)), []

    def __call__(self, images, boxes):
        self.batches.append(tuple(images.shape))
        return Detector()(images, boxes)


def encoded(size, seed):
    small = numpy.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size[::-1]).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def model(monkeypatch):
    """The model of the repository, initialised."""
    utils = types.ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.TritonError = Tensor, TritonError
    utils.InferenceResponse = lambda tensors=(), error=None: types.SimpleNamespace(tensors=tensors, error=error)
    utils.get_input_tensor_by_name = lambda request, name: {"file": request}[name]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    spec = importlib.util.spec_from_file_location("serve_camera_model", EXAMPLE / "1/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine = Loaded()
    monkeypatch.setattr(bridge, "load", lambda path: engine)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(module, "decode_jpeg", lambda files, device: decode_jpeg(files, "cpu"))
    served = module.TritonPythonModel()
    outputs = [{"name": name} for name in ("scores", "labels", "boxes")]
    arguments = {"model_repository": str(EXAMPLE), "model_version": "1", "model_instance_device_id": "0"}
    served.initialize({**arguments, "model_config": json.dumps({"output": outputs})})
    return served, engine


def request(*files):
    return Tensor("file", numpy.array([[file] for file in files], dtype=object))


def test_every_request_gets_the_boxes_of_its_files(model):
    served, engine = model
    files = [encoded(size, seed) for seed, size in enumerate(SIZES)]
    responses = served.execute([request(files[0]), request(*files[1:]), request(*files[:2])])
    assert engine.batches == [(4, 3, 100, 128), (2, 3, 100, 128)]  # five images; the last batch is filled up
    wanted = [[files[0]], files[1:], files[:2]]
    for response, given in zip(responses, wanted, strict=True):
        assert response.error is None
        expected = Detector()(*batch(decode_jpeg(given, "cpu")))
        for tensor in response.tensors:
            torch.testing.assert_close(tensor.value.cpu(), expected[tensor.name], rtol=0.05, atol=0.1)


def test_bad_files_are_errors_of_their_requests_alone(model):
    served, _ = model
    good, large = encoded((40, 64), 0), encoded((101, 20), 1)
    first, bad, wide, last = served.execute([request(good), request(b"no picture"), request(large), request(good)])
    assert "no JPEG file" in str(bad.error) and bad.error.code == TritonError.INVALID_ARG
    assert "101 x 20 pixels, and the engine takes at most 100 x 128" in str(wide.error)
    assert first.error is None and torch.equal(first.tensors[0].value, last.tensors[0].value)
    assert [response.error is None for response in served.execute([request(b"")])] == [False]


def test_the_configuration_is_that_of_the_models_results():
    text = (EXAMPLE / "config.pbtxt").read_text()
    assert [name for name in ("scores", "labels", "boxes") if f'name: "{name}"' in text] == [
        "scores",
        "labels",
        "boxes",
    ]
