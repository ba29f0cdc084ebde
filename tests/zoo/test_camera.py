"""models/camera.py: from JPEG files to boxes, in one engine after the decoder."""

import importlib
import io
import sys
from pathlib import Path

import numpy
import oracle
import pytest
import torch
from torch import nn

import bridge
from bridge.io import batch, decode_jpeg

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("transformers", reason="needs transformers")
Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
MODELS = Path(__file__).parents[2] / "models"
SMALL = [
    *("--size", "64", "--layers", "2", "--hidden", "32", "--heads", "4", "--queries", "84"),
    *("--backbone-width", "8", "--depths", "1", "1", "1", "1", "--count", "5"),
]


@pytest.fixture
def camera(monkeypatch):
    monkeypatch.syspath_prepend(str(MODELS))
    return importlib.import_module("camera")


def files(count=2):
    found = []
    for seed in range(count):
        small = numpy.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=numpy.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((90 + 30 * seed, 70)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


class Detector(nn.Module):
    """What RT-DETR gives, by one convolution."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 12, 8, 8)

    def forward(self, images):
        found = self.conv(images).flatten(2).transpose(1, 2)  # [B, Q, 12]
        return found[..., :8], found[..., 8:].sigmoid()


def test_boxes_are_those_of_the_pictures_pixels(camera):
    class Corners(nn.Module):
        """The whole picture, and its upper right quarter, of class 1 and 0."""

        def forward(self, images):
            logits = torch.tensor([[-3.0, 4.0], [2.0, -3.0]]).expand(len(images), 2, 2)
            return logits, torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.75, 0.25, 0.5, 0.5]]).expand(len(images), 2, 4)

    images, boxes = batch(decode_jpeg(files(), "cpu"))
    boxes[1, :2] = torch.tensor([20, 10])
    found = camera.Camera(camera.Detections(Corners(), 2), 16)(images, boxes)
    assert found["labels"].tolist() == [[1, 0]] * 2
    torch.testing.assert_close(found["boxes"][0], torch.tensor([[0.0, 0, 90, 70], [45, 0, 90, 35]]))
    torch.testing.assert_close(found["boxes"][1], torch.tensor([[20.0, 10, 120, 70], [70, 10, 120, 40]]))


def test_one_engine_from_bytes_to_boxes(camera):
    pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
    _, args, _, shapes = camera.bridge_model(SMALL)
    model = camera.Camera(camera.Detections(Detector(), 5), 32).eval()
    with oracle.interpreted(engines=True):
        compiled = oracle.ahead(model, args, shapes)
        assert compiled.plugin_counts() == {"preprocess": 1}
        given = batch(decode_jpeg(files(), "cpu"))
        oracle.assert_same(compiled(*given), model(*given), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu(engines=True)
def test_nothing_is_copied_to_the_host(camera, device):
    model, args, _, shapes = camera.bridge_model(SMALL)
    compiled = bridge.compile(model, args, dynamic_shapes=shapes)
    given = batch(decode_jpeg(files()))
    found, expected = compiled(*given), model.to(device)(*given)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-2, atol=1e-2)
    assert camera.copies_to_host(compiled, files()) == []


@pytest.mark.gpu(engines=True)
def test_every_way_that_is_measured_finds_the_same(camera, device):
    model, args, _, shapes = _small(camera)
    expected = camera.detect(bridge.compile(model, args, dynamic_shapes=shapes), files())
    for way in camera.ways_without_bridge(model, 32, 2).values():
        torch.testing.assert_close(way(files())["scores"], expected["scores"], rtol=2e-2, atol=2e-2)
        assert camera.pictures_per_second(way, files(), seconds=0.01) > 0


def test_pytorchs_preprocessing_is_that_of_the_engine(camera):
    images = decode_jpeg(files(), "cpu")
    given, boxes = batch(images)
    ours = bridge.preprocess(given, boxes=boxes, layout="nchw", output_size=32, dtype="float32")
    torch.testing.assert_close(camera.eager_preprocess(images, 32), ours, rtol=1e-4, atol=1e-4)


def test_without_pictures_the_script_builds_an_engine(camera, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(camera, "bridge_model", lambda argv: _small(camera))
    monkeypatch.setattr(sys, "argv", ["camera.py", "--target", "sm86", "-o", str(tmp_path / "camera.engine")])
    camera.main()
    assert "1 preprocess" in capsys.readouterr().out and (tmp_path / "camera.engine").exists()


def _small(camera):
    images, boxes = torch.zeros(2, 3, 48, 64, dtype=torch.uint8), torch.tensor([[0, 0, 64, 48]] * 2)
    height, width = (torch.export.Dim(name, min=1, max=128) for name in ("height", "width"))
    model = camera.Camera(camera.Detections(Detector(), 5), 32)
    return model.eval(), (images, boxes), {}, {"images": {2: height, 3: width}, "boxes": None}
