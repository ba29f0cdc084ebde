"""nms: its threshold is torchvision's, and its result has as many boxes as are kept."""

import ctypes
import math
import random
import struct

import numpy
import pytest
import torch
from plugin_host import Plugin, creators

import bridge
from bridge.core import libraries, plugin_file
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.tensorrt.plugins.fields import make_fields
from bridge.tensorrt.plugins.plugin_object import DTYPES, call

OP = OPS["nms"]
FLOATING = [torch.float32, torch.float16, torch.bfloat16]
THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 1.0]


def arguments(count, seed=0, levels=30):
    """Boxes that overlap, and scores of which some are equal."""
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=g) * 20
    boxes[:, 2:] += boxes[:, :2]
    return boxes, torch.randint(0, levels, (count,), generator=g).float()


def torchvisions(boxes, scores, threshold):
    return pytest.importorskip("torchvision.ops", reason="needs torchvision").nms(boxes, scores, threshold)


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
    assert sizes == [n * (2 * 16 + 4) + 16 for n in (1, 64, 65, 130)]


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
@pytest.mark.parametrize("count", [0, 1, 64, 255, 256, 257, 1025, 5000])
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
