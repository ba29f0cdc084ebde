"""nms, and what else there is for a result whose shape depends on values: fake results, plugins, engines, slices."""

import ctypes
import math
import random
import struct
import types
from importlib.util import find_spec

import numpy
import pytest
import torch
from plugin_host import Plugin, creators
from torch import nn

import bridge
from bridge.core import libraries, plugin_file
from bridge.core.op import OPS
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import EngineError, OpInputError, UnsupportedOpError
from bridge.tensorrt.install import flavour
from bridge.tensorrt.plugins.fields import make_fields
from bridge.tensorrt.run.context import Context
from bridge.tensorrt.run.output_allocator import DynamicOutput
from bridge.testing.plugin_object import DTYPES, call

OP = OPS["nms"]
FLOATING = [torch.float32, torch.float16, torch.bfloat16]
THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 1.0]
needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def arguments(count, seed=0, levels=30):
    """Boxes that overlap, and scores of which some are equal."""
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=g) * 20
    boxes[:, 2:] += boxes[:, :2]
    return boxes, torch.randint(0, levels, (count,), generator=g).float()


def torchvisions(boxes, scores, threshold):
    return pytest.importorskip("torchvision.ops", reason="needs torchvision").nms(boxes, scores, threshold)


# The reference


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 300])
def test_is_torchvision(count, threshold):
    for levels in (1, 30, 10**6):
        boxes, scores = arguments(count, count, levels)
        assert torch.equal(bridge.nms(boxes, scores, threshold), torchvisions(boxes, scores, threshold))


def test_boxes_without_area_reversed_and_infinite_ones():
    boxes = torch.tensor(
        [[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2], [2, 2, 0, 0], [0, 0, math.inf, 1], [0, 0, math.nan, 1]]
    )
    scores = torch.tensor([1.0, 2, 3, 4, 5, 6])
    assert torch.equal(bridge.nms(boxes, scores, 0.5), torchvisions(boxes, scores, 0.5))


def sets_at_the_threshold(count):
    """Boxes of integer corners, whose overlaps are small fractions, and thresholds that are such fractions."""
    draw = random.Random(7)
    for seed in range(count):
        g = torch.Generator().manual_seed(seed)
        boxes = torch.randint(0, 8, (draw.randint(2, 12), 4), generator=g).float()
        boxes[:, 2:] += boxes[:, :2] + 1
        scores = torch.randperm(len(boxes), generator=g).float()
        yield boxes, scores, draw.choice([0.5, 1 / 3, 2 / 3, 0.7, 0.3, 0.1, 0.2, 0.4, 0.6, 1 / 7])


def test_the_threshold_is_torchvisions():
    """4,000 sets: torchvision compares float32 overlaps with a threshold that is not rounded to float32."""
    wrong = [
        (boxes.tolist(), threshold)
        for boxes, scores, threshold in sets_at_the_threshold(4000)
        if not torch.equal(bridge.nms(boxes, scores, threshold), torchvisions(boxes, scores, threshold))
    ]
    assert not wrong, f"{len(wrong)} of 4000, such as {wrong[0]}"


def create_of_float32(name, values):
    """Address of a new nms plugin with one field of float32 values, or None."""
    buffer = (ctypes.c_float * len(values))(*values)
    field = plugin_file.Field(name.encode(), ctypes.cast(buffer, ctypes.c_void_p), 1, len(values))
    collection, types = plugin_file.Fields(1, ctypes.pointer(field)), [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
    return call(creators()["nms"], 0, ctypes.c_void_p, b"", ctypes.byref(collection), 0, types=types)


def test_float32_values_that_are_no_sum_are_refused(capfd):
    assert create_of_float32("iou_threshold", [0.5, 0.25]) is None
    assert "iou_threshold has 2 values, expected 1" in capfd.readouterr().err


@pytest.mark.parametrize("threshold", [1 / 3, 0.7, 0.1, 0.5, 1e300, -1e300])
def test_plugins_get_the_threshold_unrounded(threshold):
    """As float32 values that add up to it: in an ONNX attribute, in a field, and in what an engine holds."""
    (field, _) = make_fields(OP, [True, True], {"iou_threshold": threshold})
    value, kind = field.onnx()
    spelt = value if kind == "FLOATS" else [value]
    assert all(float(numpy.float32(part)) == part for part in spelt)
    expected = threshold if abs(threshold) < 1e38 else math.copysign(math.inf, threshold)
    assert math.fsum(spelt) == expected and field.array().dtype == numpy.float32
    assert field.array().tolist() == spelt
    kind, held = Plugin(create_of_float32("iou_threshold", spelt)).serialized()["iou_threshold"]
    assert kind == 1 and math.fsum(struct.unpack(f"{len(held) // 4}f", held)) == expected


@pytest.mark.gpu
def test_the_threshold_is_torchvisions_on_a_gpu(device):
    for boxes, scores, threshold in sets_at_the_threshold(4000):
        kept = bridge.nms(boxes.to(device), scores.to(device), threshold)
        assert torch.equal(kept.cpu(), torchvisions(boxes, scores, threshold)), (boxes.tolist(), threshold)


def test_nan_scores_come_first():
    boxes, _ = arguments(4)
    scores = torch.tensor([1.0, math.nan, math.inf, math.nan])
    assert bridge.nms(boxes, scores, 1.0).tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_overlaps_are_float32(dtype):
    boxes, scores = arguments(100)
    boxes = boxes.to(dtype)
    assert torch.equal(bridge.nms(boxes, scores.half(), 0.4), bridge.nms(boxes.float(), scores, 0.4))


BAD = [
    ("boxes", {"boxes": torch.zeros(3, 5)}, r"boxes has shape .3, 5., expected .boxes, 4."),
    ("scores", {"scores": torch.zeros(4)}, r"scores has shape .4,?., expected .3."),
    ("scores' rank", {"scores": torch.zeros(3, 1)}, r"scores has shape .3, 1., expected .3."),
    ("threshold", {"iou_threshold": math.nan}, "iou_threshold is nan, expected a number"),
    ("too many", {"boxes": torch.zeros(1).expand(600000, 4), "scores": torch.zeros(1).expand(600000)},
     "there are 600000 boxes, expected at most 524288"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(changes, text):
    args = {"boxes": torch.zeros(3, 4), "scores": torch.zeros(3), **changes}
    with pytest.raises(OpInputError, match=text):
        bridge.nms(**args)
    tensors, attributes = OP.bind((), args)
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(OP, [tuple(t.shape) for t in tensors], attributes)


def test_opcheck_and_the_most_that_the_shape_can_be():
    assert OP.counted == (0,) and torch.Tag.dynamic_output_shape in OP.overload.tags
    assert libraries.infer_shapes(OP, [(7, 4), (7,)], {"iou_threshold": 0.5}) == [(7,)]
    torch.library.opcheck(OP.overload, (*arguments(9), 0.5))


def test_gradients_pass_through_what_is_kept():
    boxes, scores = arguments(30)
    boxes.requires_grad_()
    kept = bridge.nms(boxes, scores, 0.3)
    assert not kept.requires_grad
    boxes[kept].sum().backward()
    assert boxes.grad.sum(1).nonzero().flatten().tolist() == sorted(kept.tolist())


# Models


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


# The plugin


def test_the_plugin_says_how_many_are_kept_in_an_output_of_its_own():
    plugin = Plugin(Plugin.create("nms", {"iou_threshold": 0.5}))
    assert plugin.num_outputs == 2 and plugin.output_dtypes([torch.float16] * 2) == [DTYPES[torch.int64]] * 2
    half, single, index = torch.float16, torch.float32, torch.int64
    assert all(plugin.supports(i, [half, single, index, index], 2) for i in range(4))
    assert not plugin.supports(3, [half, single, index, torch.int32], 2)
    assert not plugin.supports(2, [half, single, single, index], 2)
    sizes = []
    for count in (1, 64, 65, 130):
        tensors, outputs = arguments(count), [torch.zeros(count).long(), torch.tensor(0)]
        assert plugin.configure(tensors, outputs) == 0
        sizes.append(plugin.workspace(tensors, outputs))
    words = [1, 1, 2, 3]
    assert sizes == [n * 16 + -(-n // 4) * 16 + n * w * 8 for n, w in zip((1, 64, 65, 130), words, strict=True)]


@pytest.mark.gpu
@pytest.mark.parametrize("count", [0, 1, 65, 2000])
def test_the_plugin_runs(count):
    boxes, scores = arguments(count)
    plugin = Plugin(Plugin.create("nms", {"iou_threshold": 0.5}))
    given = [boxes.cuda(), scores.cuda()]
    outputs = [torch.full((count,), -1, device="cuda"), torch.tensor(-1, device="cuda")]
    assert plugin.configure(given, outputs) == 0 and plugin.shape_change(given, outputs) == 0
    scratch = torch.empty(max(plugin.workspace(given, outputs), 1), dtype=torch.uint8, device="cuda")
    assert plugin.enqueue(given, outputs, torch.cuda.current_stream().cuda_stream, scratch) == 0
    expected = bridge.nms(boxes, scores, 0.5)
    assert outputs[1].item() == len(expected)
    assert torch.equal(outputs[0][: len(expected)].cpu(), expected) and (outputs[0][len(expected) :] == -1).all()


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300, 1025, 5000])
def test_cuda_is_the_reference(count, threshold):
    for levels in (1, 30, 10**6):
        boxes, scores = arguments(count, count, levels)
        boxes *= 1 + count / 300
        for dtype in FLOATING:
            given = boxes.to(dtype), scores.to(dtype)
            kept = bridge.nms(*(tensor.cuda() for tensor in given), threshold)
            assert kept.dtype == torch.int64 and kept.is_contiguous()
            # torchvision's in float32: the reference takes its time where there are many boxes.
            expected = bridge.nms if count < 1000 else torchvisions
            assert torch.equal(kept.cpu(), expected(*(tensor.float() for tensor in given), threshold))


@pytest.mark.gpu
def test_cuda_odd_boxes_scores_and_strides():
    boxes = torch.tensor(
        [[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2], [2, 2, 0, 0], [0, 0, math.inf, 1], [0, 0, math.nan, 1]]
    )
    scores = torch.tensor([1.0, math.nan, 3, math.nan, -0.0, 0.0])
    assert torch.equal(bridge.nms(boxes.cuda(), scores.cuda(), 0.5).cpu(), bridge.nms(boxes, scores, 0.5))
    boxes, scores = arguments(200)
    wide = torch.zeros(200, 9, device="cuda")
    wide[:, 1:5], wide[:, 7] = boxes.cuda(), scores.cuda()
    assert torch.equal(bridge.nms(wide[:, 1:5], wide[:, 7], 0.3).cpu(), bridge.nms(boxes, scores, 0.3))


@pytest.mark.gpu
@pytest.mark.parametrize(("changes", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(changes, text):
    args = {"boxes": torch.zeros(3, 4), "scores": torch.zeros(3), **changes}
    given = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.nms(**given)


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


# Outputs whose shape is found in a run


@pytest.fixture
def trt():
    module = types.ModuleType("trt")
    module.IOutputAllocator = type("Allocator", (), {})
    return module


@pytest.fixture
def found(trt):
    return lambda dtype, shape: DynamicOutput(trt, dtype, shape, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.int64])
def test_memory_becomes_a_tensor_of_the_shape_that_is_found(found, dtype):
    output = found(dtype, (-1, 4))
    results = []
    for rows in (3, 1):
        address = output.allocator.reallocate_output_async("y", 0, 5 * 4 * dtype.itemsize, 256, 0)
        output.allocator.notify_shape("y", (rows, 4))
        results.append(output.take())
        assert results[-1].shape == (rows, 4) and results[-1].dtype == dtype and results[-1].data_ptr() == address
    assert results[0].data_ptr() != results[1].data_ptr(), "a result is the caller's"


def test_outputs_without_elements_or_without_a_run(found):
    output = found(torch.float32, (-1, 4))
    assert output.take().shape == (0, 4)
    output.allocator.reallocate_output("y", 0, 0, 256)
    output.allocator.notify_shape("y", (0, 4))
    assert output.take().shape == (0, 4)


def test_memory_that_is_not_there_is_told(found, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    output = found(torch.float32, (-1,))
    monkeypatch.setattr(torch, "empty", fail)
    assert output.allocator.reallocate_output_async("y", 0, 16, 256, 0) == 0
    assert isinstance(output.error, torch.OutOfMemoryError)


def test_a_context_makes_room_for_outputs_whose_shape_is_known_alone(trt):
    allocators, shapes = {}, {"kept": (-1, 4), "copy": (3,)}
    context = Context.__new__(Context)
    context.native = types.SimpleNamespace(
        set_input_shape=lambda name, shape: True,
        get_tensor_shape=shapes.get,
        set_output_allocator=lambda name, allocator: allocators.setdefault(name, allocator) is allocator,
    )
    outputs = [types.SimpleNamespace(name=name) for name in shapes]
    flavour = types.SimpleNamespace(trt=lambda: trt)
    context._engine = types.SimpleNamespace(flavour=flavour, file=types.SimpleNamespace(outputs=outputs))
    context._names, context._dtypes = ["x", *shapes], [torch.float16, torch.float32]
    context._device, context._static_outputs = torch.device("cpu"), False
    context._reset()
    context.check_shapes_known()
    context._set_shapes((torch.Size([3]),))
    assert list(allocators) == ["kept"] and context._has_work
    kept, copy = context._outputs_for(captured=False)
    assert kept is None and copy.shape == (3,) and copy.dtype == torch.float32
    with pytest.raises(EngineError, match="a CUDA graph cannot hold this engine: the shape of its output kept depends"):
        context.check_shapes_known()
    shapes["kept"] = (2, 4)
    context._set_shapes((torch.Size([2]),))
    context.check_shapes_known()
