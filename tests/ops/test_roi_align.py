import math

import pytest
import torch
from plugin_host import Plugin
from samples.roi_align import random_call, roi_align_arguments, samples
from torch.export import Dim

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import check_cuda, check_error, check_export
from bridge.testing.plugin_object import HWC, HWC8

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
OP = OPS["roi_align"]


def torchvisions(x, rois, output_size=7, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    ops = pytest.importorskip("torchvision.ops", reason="needs torchvision")
    if aligned and sampling_ratio <= 0:
        # Its CPU kernel fails on a negative number of samples; its CUDA kernel gives what an empty region does.
        ends = torch.where((rois[:, 3:] < rois[:, 1:3]).any(1, keepdim=True), rois[:, 1:3], rois[:, 3:])
        rois = torch.cat((rois[:, :3], ends), 1)
    return ops.roi_align(x, rois, output_size, spatial_scale, sampling_ratio, aligned)


# The reference


@pytest.mark.parametrize("seed", range(40))
def test_is_torchvision(seed):
    (x, rois), kwargs = random_call(seed)
    torch.testing.assert_close(bridge.roi_align(x, rois, **kwargs), torchvisions(x, rois, **kwargs))


@pytest.mark.parametrize("ratio", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 256])
def test_is_torchvision_for_regions_of_every_kind(channels, aligned, ratio):
    x = torch.randn(2, channels, 11, 17, generator=torch.Generator().manual_seed(channels))
    rows = {
        "within": (1, 1.3, 2.2, 9.9, 7.1),
        "whole pixels": (0, 2, 3, 9, 10),
        "the map": (1, 0, 0, 17, 11),
        "larger": (0, -20, -30, 60, 50),
        "beyond": (0, 40, 40, 60, 60),
        "before": (1, -60, -60, -20, -20),
        "at the last pixel": (0, 16, 10, 16.9, 10.9),
        "a point": (1, 5.5, 5.5, 5.5, 5.5),
        "a line": (0, 3.0, 5.5, 14.0, 5.5),
        "reversed": (1, 12.2, 9.3, 4.1, 2.6),
        "reversed in x": (1, 12.2, 2.6, 4.1, 9.3),
        "an image's fraction": (1.75, 1.3, 2.2, 9.9, 7.1),
        "an image just below 0": (-0.5, 1.3, 2.2, 9.9, 7.1),
    }
    rois = torch.tensor(list(rows.values()))
    for output_size in ((1, 1), (2, 5), (7, 7)):
        settings = (output_size, 0.75, ratio, aligned)
        expected = torchvisions(x, rois, *settings)
        torch.testing.assert_close(bridge.roi_align(x, rois, *settings), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient_is_torchvisions(ratio):
    x, rois = roi_align_arguments(6, 2, 4, (9, 12), seed=3)
    grads = []
    for function in (bridge.roi_align, torchvisions):
        leaf = x.clone().requires_grad_()
        function(leaf, rois, (3, 4), 0.25, ratio, True).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_gradient_of_adaptive_sampling_is_not_traced():
    x, rois = roi_align_arguments(3, 2, 4, (9, 12))
    compiled = torch.compile(lambda x: bridge.roi_align(x, rois).sum(), backend="aot_eager")
    with pytest.raises(Exception, match=r"sampling_ratio 0 or less .* cannot be traced: give it a sampling_ratio of 1"):
        compiled(x.requires_grad_()).backward()


def test_a_map_without_slope_gives_its_value():
    x = torch.full((1, 2, 30, 40), 1.5)
    rois = torch.tensor([[0, 3.0, 4.0, 37.0, 25.0]])
    assert torch.equal(bridge.roi_align(x, rois, (3, 2)), torch.full((1, 2, 3, 2), 1.5))


def test_many_pixels_a_bin_are_looked_at_where_they_are_on_the_map():
    """A region of a million pixels, of which the map is a few in its middle."""
    x = torch.ones(1, 1, 5, 4)
    rois = torch.tensor([[0, -500000.0, -500000.0, 500000.0, 500000.0]])
    # All of the map's samples, about 6 x 5 of them (those up to -1 and the extent count too), in one of 10^12.
    (value,) = bridge.roi_align(x, rois, 1).flatten().double().tolist()
    assert 5e-12 * 4 <= value <= 6e-12 * 7


REGION = [0, 1.0, 1.0, 5.0, 4.0]


@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_regions_that_are_not_finite_are_nan_and_no_others(place, value, ratio):
    x = torch.randn(1, 2, 6, 7)
    rois = torch.tensor([REGION] * 3)
    rois[1, place] = value
    y = bridge.roi_align(x, rois, 2, 4.0, ratio)  # times 4 the largest is infinite too
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()
    assert torch.equal(y[[0, 2]], bridge.roi_align(x, rois[[0, 2]], 2, 4.0, ratio))


def test_infinite_pixels_show_where_they_count():
    x = torch.ones(1, 1, 8, 8)
    x[0, 0, 2, 3] = math.inf
    x[0, 0, 6, 6] = math.nan
    rois = torch.tensor([[0, 3.25, 2.25, 3.75, 2.75], [0, 0.0, 0.0, 2.0, 1.9], [0, 2.0, 3.5, 5.0, 5.0]])
    y = bridge.roi_align(x, rois, 1, 1.0, 2, True).flatten()
    assert y[0] == math.inf and y[1] == 1 and y[2] == 1


def test_an_image_that_x_has_not():
    x = torch.randn(2, 3, 6, 7)
    for image, text in ((2, "2"), (-1, "-1"), (7, "7"), (math.nan, "nan")):
        rois = torch.tensor([REGION, [image, *REGION[1:]]])
        with pytest.raises(OpInputError, match=f"row 1 of rois is in image {text}, but x has 2 images"):
            bridge.roi_align(x, rois)


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ("rank", {"x": _zeros(3, 6, 7)}, r"x must have 4 dimensions, got shape .3, 6, 7."),
    ("rois", {"rois": _zeros(3, 4)}, r"rois has shape .3, 4., expected .rois, 5."),
    ("list of boxes", {"rois": _zeros(2, 3, 4)}, r"rois has shape .2, 3, 4., expected .rois, 5."),
    ("no pixel", {"x": _zeros(2, 3, 0, 7)}, "the feature map of 0 x 7 has no pixel, or 2.31 or more"),
    ("output size", {"output_size": (0, 2)}, "output_size is 0 x 2, expected 1 to 4096"),
    ("large output size", {"output_size": 5000}, "output_size is 5000 x 5000, expected 1 to 4096"),
    ("ratio", {"sampling_ratio": 5000}, "sampling_ratio is 5000, expected at most 4096"),
    ("scale", {"spatial_scale": math.inf}, "spatial_scale is inf, expected a finite number"),
    ("scale nan", {"spatial_scale": math.nan}, "spatial_scale is nan, expected a finite number"),
]


def _arguments(**changes):
    return {"x": _zeros(2, 3, 6, 7), "rois": _zeros(4, 5), **changes}


@pytest.mark.parametrize(("changes", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(changes, text):
    args = _arguments(**changes)
    with pytest.raises(OpInputError, match=text):
        bridge.roi_align(**args)
    tensors, attributes = OP.bind((), args)
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(OP, [tuple(t.shape) for t in tensors], attributes)


@pytest.mark.parametrize("name", ["x", "rois"])
def test_bad_dtypes(name):
    args = _arguments()
    with pytest.raises(OpInputError, match=f"{name} is torch.int64, expected torch.float32"):
        bridge.roi_align(**{**args, name: args[name].long()})


@pytest.mark.parametrize("rois_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_may_differ(dtype, rois_dtype):
    x, rois = roi_align_arguments(5, 2, 3, (9, 8))
    x, rois = x.to(dtype), rois.to(rois_dtype)
    y = bridge.roi_align(x, rois, 3, 0.25, 2)
    assert y.dtype == dtype
    expected = bridge.roi_align(x.double(), rois.double(), 3, 0.25, 2)
    torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 2])
def test_export(ratio):
    count, batch = Dim("count", min=0, max=64), Dim("batch", min=1, max=16)
    check_export(
        OP,
        lambda n: roi_align_arguments(n + 2, n, 4, (n + 4, n + 6)),
        [{0: batch, 2: Dim("height", min=4, max=64), 3: Dim("width", min=4, max=64)}, {0: count}],
        spatial_scale=0.25,
        sampling_ratio=ratio,
    )


# The plugin's formats


def test_the_plugin_takes_channels_last_where_nothing_is_padded():
    plugin = Plugin(Plugin.create("roi_align", {}))
    half, brain, single = torch.float16, torch.bfloat16, torch.float32

    def takes(channels, dtype, format, position=0):
        shapes = [(2, channels, 6, 7), (4, 5), (4, channels, 7, 7)]
        return plugin.supports(position, [dtype, single, dtype], 2, format, shapes)

    assert takes(8, half, HWC8) and takes(24, brain, HWC8) and takes(3, single, HWC)
    assert not takes(12, half, HWC8) and not takes(-1, half, HWC8)  # padded, or perhaps so
    assert not takes(8, single, HWC8) and not takes(8, half, HWC)
    assert not takes(8, half, HWC8, position=2) and not takes(8, single, HWC, position=1)


# Kernels. Number 0 is the direct one, and -1 leaves the choice to the op: that of the layout, where its tables fit.

GEOMETRIES = {
    "FPN": ((40, 2, 256, (25, 38)), {"output_size": 7, "sampling_ratio": 2}),
    "mask head": ((9, 2, 256, (25, 38)), {"output_size": 14, "sampling_ratio": 2, "aligned": True}),
    "adaptive": ((30, 2, 64, (30, 28)), {"output_size": (3, 5), "aligned": True}),
    "adaptive, more than a table holds": ((12, 1, 16, (120, 90)), {"output_size": 2}),
    "ragged channels": ((11, 2, 67, (13, 15)), {"output_size": (5, 3), "sampling_ratio": 3}),
    "one bin": ((50, 1, 300, (13, 15)), {"output_size": 1, "sampling_ratio": 2}),
    "more bins than threads": ((3, 1, 24, (13, 15)), {"output_size": (20, 21), "sampling_ratio": 1}),
    "a table too large": ((3, 1, 8, (9, 9)), {"output_size": (70, 60), "sampling_ratio": 20}),
    "results too large": ((1, 1, 8, (9, 9)), {"output_size": (150, 150), "sampling_ratio": 1}),
    "channels in parts": ((4, 1, 1000, (13, 15)), {"output_size": 7, "sampling_ratio": 2}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("number", [-1, 0])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_kernel_is_the_reference(geometry, dtype, memory, number):
    extents, kwargs = GEOMETRIES[geometry]
    x, rois = roi_align_arguments(*extents)
    with libraries.tactic("roi_align", number):
        check_cuda(OP, dtype, x.to(memory_format=memory), rois, spatial_scale=0.25, **kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize("number", [-1, 0])
@pytest.mark.parametrize("rois_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_dtypes_may_differ(dtype, rois_dtype, number):
    x, rois = roi_align_arguments(7, 2, 16, (12, 9))
    x, rois = x.to(dtype), rois.to(rois_dtype)
    exact = OP.run(x.double(), rois.double(), 3, 0.25, 2)
    with libraries.tactic("roi_align", number):
        check_error(
            "roi_align", exact, OP.run(x, rois, 3, 0.25, 2), bridge.roi_align(x.cuda(), rois.cuda(), 3, 0.25, 2).cpu()
        )


@pytest.mark.gpu
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("number", [-1, 0])
def test_cuda_regions_of_no_image_and_not_finite_ones_are_nan(number, memory):
    x = torch.randn(2, 8, 6, 7)
    good = torch.tensor([REGION, [1, -3.0, 2.0, 30.0, 5.0]])
    images = [-1.0, -1e30, 2.0, 1e30, math.nan, math.inf]
    bad = torch.tensor([[image, *REGION[1:]] for image in images] + [[0, *REGION[1:]]] * 3)
    bad[-3, 1], bad[-2, 4], bad[-1, 3] = math.nan, math.inf, -math.inf
    rois = torch.cat((good[:1], bad, good[1:]))
    for ratio in (-1, 2):
        with libraries.tactic("roi_align", number):
            y = bridge.roi_align(x.cuda().to(memory_format=memory), rois.cuda(), 3, 1.0, ratio).cpu()
        assert y[1:-1].isnan().all()
        torch.testing.assert_close(y[[0, -1]], bridge.roi_align(x, good, 3, 1.0, ratio), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_cuda_no_image_at_all():
    y = bridge.roi_align(torch.empty(0, 3, 4, 4, device="cuda"), torch.tensor([REGION], device="cuda"), 2)
    assert y.shape == (1, 3, 2, 2) and y.isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize("number", [-1, 0])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_cuda_infinite_pixels_and_huge_regions(memory, number):
    x = torch.randn(1, 16, 9, 8)
    x[0, 3, 4, 4] = math.inf
    x[0, 5, 2, 6] = math.nan
    rois = torch.tensor(
        [[0, 3.25, 2.25, 3.75, 2.75], [0, 0.0, 0.0, 7.0, 8.0], [0, -5e5, -5e5, 5e5, 5e5], [0, 6, 7, 2, 1]]
    )
    for ratio, aligned in ((-1, False), (2, True), (40, True)):
        expected = bridge.roi_align(x, rois, (3, 2), 1.0, ratio, aligned)
        with libraries.tactic("roi_align", number):
            y = bridge.roi_align(x.cuda().to(memory_format=memory), rois.cuda(), (3, 2), 1.0, ratio, aligned).cpu()
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.gpu
def test_cuda_is_torchvision():
    for seed in range(20):
        (x, rois), kwargs = random_call(seed)
        x, rois = x.cuda(), rois.cuda()
        expected = torchvisions(x, rois, **kwargs)
        for memory in (torch.contiguous_format, torch.channels_last):
            y = bridge.roi_align(x.to(memory_format=memory), rois, **kwargs)
            torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_channels_last_is_taken_as_it_is():
    """No copy of x is made: the only new memory is the result's."""
    x = torch.randn(1, 64, 256, 256, device="cuda").to(memory_format=torch.channels_last)
    rois = torch.tensor([REGION], device="cuda")
    bridge.roi_align(x, rois)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    bridge.roi_align(x, rois)
    assert torch.cuda.max_memory_allocated() - before < x.numel()


@pytest.mark.gpu
@pytest.mark.parametrize(("changes", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(changes, text):
    given = {name: t.cuda() if isinstance(t, torch.Tensor) else t for name, t in _arguments(**changes).items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.roi_align(**given)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "format"), [(torch.float16, HWC8), (torch.bfloat16, HWC8), (torch.float32, HWC)])
def test_the_plugin_runs_in_channels_last(dtype, format):
    label, (x, rois), kwargs = samples()[7]
    x = x.to(dtype)
    expected = OP.run(x, rois, **kwargs)
    plugin = Plugin(Plugin.create("roi_align", kwargs))
    given, actual = [x.cuda().to(memory_format=torch.channels_last), rois.cuda()], torch.empty_like(expected).cuda()
    assert plugin.configure(given, [actual]) == 0 and plugin.shape_change(given, [actual]) == 0
    stream = torch.cuda.current_stream().cuda_stream
    assert plugin.enqueue(given, [actual], stream, formats=[format, 0]) == 0, label
    torch.testing.assert_close(actual.cpu(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
