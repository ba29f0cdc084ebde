"""Models that suppress boxes: exported, compiled at every door, their results of a shape that depends on values."""

from importlib.util import find_spec

import pytest
import torch
from test_nms import arguments
from torch import nn

import bridge
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import EngineError, UnsupportedOpError
from bridge.tensorrt.install import flavour

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


class Kept(nn.Module):
    """Boxes, scores and indices that torchvision keeps."""

    def forward(self, boxes, scores):
        import torchvision

        kept = torchvision.ops.nms(boxes * 2, scores, 0.3)
        return boxes[kept], scores[kept], kept


class First(nn.Module):
    """At most five of each class, then what a head makes of their regions."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4 * 9, 5)

    def forward(self, boxes, scores, classes, x):
        import torchvision

        kept = torchvision.ops.batched_nms(boxes, scores, classes, 0.3)[:5]
        return self.head(bridge.roi_align(x, nn.functional.pad(boxes[kept], (1, 0)), 3, 1.0, 2).flatten(1))


def kept_example(count=40, seed=0, device="cpu"):
    return tuple(tensor.to(device) for tensor in arguments(count, seed, 10**6))


def first_example(count=40, seed=0, device="cpu"):
    g = torch.Generator().manual_seed(seed)
    rest = torch.randint(0, 3, (count,), generator=g), torch.randn(1, 4, 20, 24, generator=g)
    return (*kept_example(count, seed, device), *(tensor.to(device) for tensor in rest))


EXAMPLES = {Kept: kept_example, First: first_example}


def compiled(model, *, device="cpu", dynamic=True, **settings):
    torch.manual_seed(0)
    model, args = model().eval().to(device), EXAMPLES[model](device=device)
    count = torch.export.Dim("count", min=2, max=500)
    shapes = tuple({0: count} if tensor.dim() < 4 else None for tensor in args) if dynamic else None
    return model, bridge.compile(model, args, dynamic_shapes=shapes, **settings)


@needs_torch_tensorrt
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_torchvisions_nms_becomes_the_plugin(dynamic):
    pytest.importorskip("torchvision", reason="needs torchvision")
    _, engine = compiled(Kept, dynamic=dynamic, target="sm86")
    assert engine.plugin_counts() == {"nms": 1} and len(engine.engine) > 1000
    assert [spec.shape for spec in engine.outputs] == [(-1, 4), (-1,), (-1,)]
    assert [spec.dtype for spec in engine.outputs] == ["float32", "float32", "int64"]
    (layer,) = (layer for layer in engine.layers if layer["type"] == "PLUGIN_V3")
    assert layer["attributes"] == {"iou_threshold": pytest.approx(0.3), "tensors": "boxes,scores"}
    assert [output["dtype"] for output in layer["outputs"]] == ["int64", "int64"]  # what is kept, and how many


@needs_torch_tensorrt
def test_batched_nms_and_the_first_of_what_it_keeps():
    pytest.importorskip("torchvision", reason="needs torchvision")
    _, engine = compiled(First, target="sm86")
    assert engine.plugin_counts() == {"nms": 1, "roi_align": 1}
    assert [spec.shape for spec in engine.outputs] == [(-1, 5)]  # not (5, 5): fewer may be kept


@needs_torch_tensorrt
@pytest.mark.parametrize(
    ("cut", "text"),
    [
        (lambda kept: kept[2:], r"\[2:\]"),
        (lambda kept: kept[:-1], r"\[0:-1\]"),
        (lambda kept: kept[:8:2], r"\[0:8:2\]"),
    ],
)
def test_other_slices_of_what_is_kept_are_refused(cut, text):
    class Net(nn.Module):
        def forward(self, boxes, scores):
            return cut(bridge.nms(boxes, scores, 0.3))

    with pytest.raises(
        UnsupportedOpError, match=f"it takes {text} of an extent that depends on values; .:n., for a num"
    ):
        bridge.compile(Net().eval(), kept_example(), target="sm86")


@needs_torch_tensorrt
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_torch_compile_keeps_it_in_one_graph_where_it_is_told_to():
    pytest.importorskip("torchvision", reason="needs torchvision")
    for captures in (False, True):
        torch._dynamo.reset()
        model = torch.compile(Kept().eval(), backend="bridge", options={"target": "sm86", "cache": False})
        text = (
            "no CUDA GPU here" if captures else "Set torch._dynamo.config.capture_dynamic_output_shape_ops = True, wh"
        )
        captured = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=captures)
        with captured, torch.no_grad(), pytest.raises(Exception, match=text):
            model(*kept_example())
    report = bridge.report(model)
    assert len(report.graphs) == 1 and report.plugin_counts() == {"nms": 1}


@needs_torch_tensorrt
def test_torch_tensorrt_leaves_it_in_pytorch_and_says_why(caplog):
    pytest.importorskip("torchvision", reason="needs torchvision")
    torch_tensorrt = flavour.detect().torch_tensorrt()
    door.register()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args = kept_example(device=device)
    with door.cross_compile(None if device == "cuda" else "sm86"):
        program = torch.export.export(Kept().eval(), args)
        compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=list(args), min_block_size=1)
    assert not any(layer["op"] for layer in door.layers_of(compiled))
    assert (
        "nms (torchvision.nms.default), the shape of its result depends on values, for which torch_tens" in caplog.text
    )


def test_export_and_its_program_at_other_sizes():
    class Net(nn.Module):
        def forward(self, boxes, scores):
            return boxes[bridge.nms(boxes, scores, 0.3)]

    count = torch.export.Dim("count", min=2, max=500)
    program = torch.export.export(Net(), kept_example(), dynamic_shapes=({0: count}, {0: count}))
    for size in (2, 100):
        boxes, scores = kept_example(size, seed=size)
        assert torch.equal(program.module()(boxes, scores), Net()(boxes, scores))


# On a GPU


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_engines_equal_eager_however_many_are_kept(model, device):
    pytest.importorskip("torchvision", reason="needs torchvision")
    eager, engine = compiled(model, device=device)
    for count in (40, 2, 3, 500, 41):
        args = EXAMPLES[model](count, seed=count, device=device)
        expected, found = eager(*args), engine(*args)
        pairs = zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]
        for wanted, ours in pairs:
            assert ours.shape == wanted.shape and ours.dtype == wanted.dtype
            torch.testing.assert_close(ours, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu(engines=True)
def test_earlier_results_are_not_overwritten(device):
    _, engine = compiled(Kept, device=device)
    results = engine(*kept_example(40, 1, device))
    first = [tensor.clone() for tensor in results]
    engine(*kept_example(40, 2, device))
    assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))


@pytest.mark.gpu(engines=True)
def test_a_cuda_graph_is_refused(device):
    _, engine = compiled(Kept, device=device, cuda_graph=True)
    with pytest.raises(
        EngineError, match=r"the shape of its output .* depends on values; run it with cuda_graph=False"
    ):
        engine(*kept_example(device=device))
