import math

import pytest
import torch
from plugin_host import Plugin
from samples.detection.roi_align import random_call, roi_align_arguments
from torch.export import Dim

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.tensorrt.plugins.plugin_object import CHW4, HWC, HWC8, LINEAR
from bridge.testing import check_export

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
OP = OPS["roi_align"]


def torchvisions(x, rois, output_size=7, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    ops = pytest.importorskip("torchvision.ops", reason="needs torchvision")
    if aligned and sampling_ratio <= 0:
        # Its CPU kernel fails on a negative number of samples; its CUDA kernel gives what an empty region does.
        ends = torch.where((rois[:, 3:] < rois[:, 1:3]).any(1, keepdim=True), rois[:, 1:3], rois[:, 3:])
        rois = torch.cat((rois[:, :3], ends), 1)
    return ops.roi_align(x, rois, output_size, spatial_scale, sampling_ratio, aligned)


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


def arguments_with(**changes):
    return {"x": _zeros(2, 3, 6, 7), "rois": _zeros(4, 5), **changes}


@pytest.mark.parametrize(("changes", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(changes, text):
    args = arguments_with(**changes)
    with pytest.raises(OpInputError, match=text):
        bridge.roi_align(**args)
    tensors, attributes = OP.bind((), args)
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(OP, [tuple(t.shape) for t in tensors], attributes)


@pytest.mark.parametrize("name", ["x", "rois"])
def test_bad_dtypes(name):
    args = arguments_with()
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


def test_an_engine_is_built_with_one_format_channels_last_where_nothing_is_padded():
    """One alone: TensorRT-RTX 1.6.1 tells a plugin that takes several that each is linear, whichever it is."""
    plugin = Plugin(Plugin.create("roi_align", {}))
    half, brain, single = torch.float16, torch.bfloat16, torch.float32

    def takes(channels, dtype, format, position=0):
        shapes = [(2, channels, 6, 7), (4, 5), (4, channels, 7, 7)]
        return plugin.supports(position, [dtype, single, dtype], 2, format, shapes)

    for channels, dtype, position, only in (
        (8, half, 0, HWC8),
        (12, half, 0, LINEAR),  # it would be padded
        (-1, half, 0, LINEAR),  # or perhaps
        (24, brain, 0, LINEAR),
        (3, single, 0, LINEAR),
        (8, single, 1, LINEAR),
        (8, half, 2, LINEAR),
    ):
        formats = [format for format in (LINEAR, HWC8, HWC, CHW4) if takes(channels, dtype, format, position)]
        assert formats == [only], (channels, dtype, position)
