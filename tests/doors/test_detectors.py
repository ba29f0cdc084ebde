"""Detectors to their end: boxes decoded and suppressed in one engine, or what depends on values in PyTorch."""

from importlib.util import find_spec

import pytest
import torch
from oracle import ahead, assert_same, interpreted, just_in_time
from torch import nn
from torch.export import Dim

import bridge
from bridge.errors import ExportError, UnsupportedOpError
from bridge.graph import capture

pytestmark = [
    pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt"),
    pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision"),
]


class Detector(nn.Module):
    """One image to boxes [N, 4], their scores [N] and labels [N], as YOLO decodes them; `end` makes the result."""

    def __init__(self, end, classes=3):
        super().__init__()
        self.end = end
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.SiLU())
        self.distances, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, classes, 1)
        with torch.no_grad():
            self.classes.weight.mul_(8)  # so that no two scores are nearly equal

    def forward(self, x):
        features = self.backbone(x)
        height, width = features.shape[-2:]
        distances = self.distances(features)[0].flatten(1).mT.exp()  # [N, 4]
        scores, labels = self.classes(features)[0].flatten(1).mT.sigmoid().max(-1)
        rows, columns = torch.meshgrid(*[torch.arange(n, dtype=x.dtype) + 0.5 for n in (height, width)], indexing="ij")
        points = torch.stack((columns, rows), -1).reshape(-1, 2)
        boxes = 4 * torch.cat((points - distances[:, :2], points + distances[:, 2:]), -1)
        return self.end(boxes, scores, labels)


def suppressed(boxes, scores, labels):
    from torchvision.ops import nms

    kept = nms(boxes, scores, 0.5)[:20]
    return {"boxes": boxes[kept].clamp(0, 36), "scores": scores[kept], "labels": labels[kept]}


def suppressed_by_class(boxes, scores, labels):
    from torchvision.ops import batched_nms

    kept = batched_nms(boxes, scores, labels, 0.5)
    return torch.cat((boxes[kept], scores[kept, None], labels[kept, None].float()), -1)[:20]


def best_first(boxes, scores, labels):
    scores, order = scores.topk(12)
    return suppressed(boxes[order], scores, labels[order])


def above_threshold(boxes, scores, labels):
    above = scores > 0.6
    return suppressed(boxes[above], scores[above], labels[above])


SIZES = {"x": {2: 4 * Dim("rows", min=4, max=16), 3: 4 * Dim("columns", min=4, max=16)}}


@pytest.mark.parametrize(
    ("end", "dynamic_shapes"),
    [(suppressed, None), (suppressed_by_class, SIZES), (best_first, SIZES)],
)
def test_a_detector_is_one_engine_to_its_last_box(end, dynamic_shapes):
    torch.manual_seed(1)
    model = Detector(end).eval()
    with interpreted():
        compiled = ahead(model, (torch.randn(1, 3, 32, 28),), dynamic_shapes)
        assert [layer["op"] for layer in compiled.file.layers if layer["op"]] == ["nms"]
        for height, width in ((32, 28), (24, 36)) if dynamic_shapes else ((32, 28),):
            x = torch.randn(1, 3, height, width)
            assert_same(compiled(x), model(x), rtol=1e-3, atol=1e-4)


def test_what_takes_elements_by_values_is_refused_with_a_way_out():
    with pytest.raises(UnsupportedOpError, match=r"index.Tensor.*\n?.*depends on values.*\"fallback\": True"):
        bridge.compile(Detector(above_threshold).eval(), (torch.randn(1, 3, 32, 28),), target="sm86", cache=False)


def test_torchvisions_detector_runs_with_fallback():
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    class Backbone(nn.Module):
        out_channels = (8, 8)

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 2, 1)

        def forward(self, x):
            x = self.first(x).relu()
            return {"0": x, "1": self.second(x).relu()}

    torch.manual_seed(1)
    anchors = DefaultBoxGenerator([[2], [2]], min_ratio=20, max_ratio=60)
    sizes = {"topk_candidates": 20, "detections_per_img": 5}
    model = SSD(Backbone(), anchors, (32, 32), 3, score_thresh=0.0, **sizes).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3)
    images = [torch.rand(3, 32, 32)]
    expected = model(images)
    with interpreted():
        compiled = just_in_time(model, fallback=True)
        assert_same(compiled(images), expected, rtol=1e-3, atol=1e-3)
    first = bridge.report(compiled).graphs[0]
    (engine,) = first.engines
    assert [layer["type"] for layer in engine.layers].count("CONVOLUTION") == 6  # backbone and heads
    assert "nonzero" in first.graph_break and "postprocess_detections" in first.graph_break


def test_a_graph_is_not_captured_strictly(monkeypatch):
    """torch._dynamo, which is at work when torch.compile's graphs come here, would free what it compiles with."""
    export, strict = torch.export.export, []

    def record(*args, **kwargs):
        strict.append(kwargs["strict"])
        return export(*args, **kwargs)

    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(3, 4) + 1

    monkeypatch.setattr(torch.export, "export", record)
    for model, expected in ((Fixed(), True), (torch.fx.symbolic_trace(Fixed()), False)):
        strict.clear()
        with pytest.raises(ExportError):
            capture.export(model.eval(), (torch.randn(3, 4),), {}, {"x": {0: Dim("n", min=2, max=8)}})
        assert any(strict) is expected
