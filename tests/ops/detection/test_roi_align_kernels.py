"""The kernels of roi_align: each is the reference, in every layout; on a GPU.

Number 0 is the direct one, and -1 leaves the choice to the op: that of the layout, where its tables fit.
"""

import math

import pytest
import torch
from plugin_host import Plugin
from samples.detection.roi_align import random_call, roi_align_arguments, samples
from test_roi_align import BAD, DTYPES, OP, REGION, arguments_with, torchvisions

import bridge
from bridge.core import libraries
from bridge.tensorrt.plugins.plugin_object import HWC, HWC8
from bridge.testing import check_cuda, check_error

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
    given = {name: t.cuda() if isinstance(t, torch.Tensor) else t for name, t in arguments_with(**changes).items()}
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
