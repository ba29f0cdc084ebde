"""deform_roi_pool: roi_align of regions that move bin by bin, and its kernels in both layouts."""

import pytest
import torch
from samples.detection.deform_roi_pool import deform_roi_arguments, random_call
from test_roi_align import BAD, DTYPES
from test_roi_pool import check_bad_input
from torch.export import Dim

import bridge
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import check_cuda, check_error, check_export

OP = OPS["deform_roi_pool"]


def bin_by_bin(x, rois, offset, output_size, spatial_scale, sampling_ratio, gamma):
    """Each bin is that of roi_align, for regions that are moved as the bin is."""
    result = bridge.roi_align(x, rois, output_size, spatial_scale, sampling_ratio, True)
    extents = rois[:, 3:] - rois[:, 1:3]
    for row in range(output_size[0]):
        for column in range(output_size[1]):
            by = torch.zeros_like(extents) if offset is None else gamma * extents * offset[:, :, row, column]
            moved = torch.cat((rois[:, :1], rois[:, 1:3] + by, rois[:, 3:] + by), 1)
            pooled = bridge.roi_align(x, moved, output_size, spatial_scale, sampling_ratio, True)
            result[:, :, row, column] = pooled[:, :, row, column]
    return result


@pytest.mark.parametrize("seed", range(25))
def test_bins_are_those_of_roi_align_that_moved(seed):
    args, kwargs = random_call(seed)
    given = [None if tensor is None else tensor.double() for tensor in args]
    torch.testing.assert_close(bridge.deform_roi_pool(*given, **kwargs), bin_by_bin(*given, **kwargs))


def test_a_bin_by_hand():
    """A region of 4 x 2 pixels as one bin, moved by half its width and by its height."""
    x = torch.arange(48.0).reshape(1, 1, 6, 8)
    rois, offset = torch.tensor([[0.0, 1, 1, 5, 3]]), torch.tensor([5.0, 10.0]).reshape(1, 2, 1, 1)
    # Its middle is (2.5 + 2, 1.5 + 2) in pixels whose centres are whole numbers.
    assert bridge.deform_roi_pool(x, rois, offset, 1, 1.0, 1, 0.1).item() == 3.5 * 8 + 4.5
    assert bridge.deform_roi_pool(x, rois, None, 1, 1.0, 1, 0.1).item() == 1.5 * 8 + 2.5


def test_is_mmcvs():
    ops = pytest.importorskip("mmcv.ops", reason="needs mmcv with its operators")
    if not torch.cuda.is_available():
        pytest.skip("mmcv pools on a GPU")
    for seed in range(20):
        args, kwargs = random_call(seed)
        given = [None if tensor is None else tensor.cuda() for tensor in args]
        order = [kwargs[name] for name in ("output_size", "spatial_scale", "sampling_ratio", "gamma")]
        found = bridge.deform_roi_pool(*given, **kwargs)
        torch.testing.assert_close(found, ops.deform_roi_pool(*given, *order), rtol=1e-4, atol=1e-4)


def test_bad_input():
    check_bad_input("deform_roi_pool", BAD)
    x, rois, offset = deform_roi_arguments(4, 2, 3, (9, 8))
    for changes, text in (
        ({"offset": offset[:3]}, r"offset has shape \(3, 2, 3, 2\), expected \(4, 2, 3, 2\)"),
        ({"offset": offset[:, :, 0]}, r"offset has shape \(4, 2, 2\)"),
        ({"offset": offset.long()}, "offset is torch.int64"),
        ({"gamma": float("inf")}, "gamma is inf, expected a finite number"),
    ):
        with pytest.raises(OpInputError, match=text):
            bridge.deform_roi_pool(**{"x": x, "rois": rois, "offset": offset, "output_size": (3, 2), **changes})


def not_finite():
    x, rois, offset = deform_roi_arguments(4, 2, 3, (9, 8))
    offset[0, 1, 2, 1], offset[1, 0, 0, 0] = torch.nan, torch.inf
    rois[2, 3] = torch.inf
    offset[3] = 1e30
    return x, rois, offset


def check_not_finite(found):
    wrong = torch.zeros(4, 3, 2, dtype=torch.bool)
    wrong[0, 2, 1] = wrong[1, 0, 0] = wrong[2] = True
    assert torch.equal(found.isnan().all(1).cpu(), wrong) and torch.equal(found.isnan().any(1).cpu(), wrong)
    assert not found[3].any()


def test_offsets_that_are_not_finite_spoil_their_bin():
    check_not_finite(bridge.deform_roi_pool(*not_finite(), (3, 2), 0.25, 2))


@pytest.mark.parametrize("offsets", [False, True])
def test_exports_with_dynamic_extents(offsets):
    batch, count = Dim("batch", min=1, max=8), Dim("count", min=0, max=64)
    sides = {2: Dim("height", min=4, max=64), 3: Dim("width", min=4, max=64)}
    check_export(
        OP,
        lambda n: deform_roi_arguments(n + 2, n, 4, (n + 4, n + 6), offsets=offsets),
        [{0: batch, **sides}, {0: count}, {0: count} if offsets else None],
        output_size=(3, 2),
        spatial_scale=0.25,
        sampling_ratio=2,
    )


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ratio", [0, 1, 2, 5])
@pytest.mark.parametrize("channels", [256, 67, 8, 3])
def test_cuda_layouts(channels, ratio, dtype, memory):
    x, rois, offset = deform_roi_arguments(40, 2, channels, (25, 38), (7, 7))
    check_cuda(OP, dtype, x.to(memory_format=memory), rois, offset, spatial_scale=0.25, sampling_ratio=ratio)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "bins", "ratio"),
    [
        ((25, 37), (7, 7), 2),  # rows that begin at odd elements
        ((60, 75), (7, 7), 4),  # regions of more pixels than shared memory holds
        ((60, 76), (7, 7), 2),
        ((160, 90), (7, 7), 0),  # and of more samples
        ((160, 90), (2, 1), 0),
        ((12, 14), (7, 7), 40),  # samples that no table holds
        ((30, 44), (14, 14), 2),  # more bins than threads
        ((30, 44), (40, 41), 2),  # bins that no table holds
    ],
)
def test_cuda_sizes(size, bins, ratio, dtype):
    x, rois, offset = deform_roi_arguments(12, 2, 21, size, bins)
    check_cuda(OP, dtype, x, rois, offset, output_size=bins, spatial_scale=0.25, sampling_ratio=ratio)


@pytest.mark.gpu
def test_cuda_infinite_pixels_show_where_they_count():
    """A pixel beside those that a bin reads lies in the same part of shared memory."""
    x = torch.ones(1, 3, 8, 8)
    x[0, 1, 2, 3], x[0, 2, 6, 6] = torch.inf, torch.nan
    rois = torch.tensor([[0, 0.5, 0.5, 7.5, 7.5], [0, 3.25, 2.25, 3.75, 2.75]])
    args = x, rois, None, 4, 1.0, 2
    found = bridge.deform_roi_pool(*[each.cuda() if isinstance(each, torch.Tensor) else each for each in args])
    torch.testing.assert_close(found.cpu(), bridge.deform_roi_pool(*args), equal_nan=True)
    assert found[0].isinf().sum() > 0 and found[0].isnan().sum() > 0 and found[0].isfinite().sum() > 16


@pytest.mark.gpu
@pytest.mark.parametrize("offset_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_dtypes_may_differ(dtype, offset_dtype):
    x, rois, offset = deform_roi_arguments(7, 2, 16, (12, 9))
    given, settings = [x.to(dtype), rois, offset.to(offset_dtype)], ((3, 2), 0.25, 2)
    exact = OP.run(*[tensor.double() for tensor in given], *settings)
    found = bridge.deform_roi_pool(*[tensor.cuda() for tensor in given], *settings).cpu()
    check_error("deform_roi_pool", exact, OP.run(*given, *settings), found)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_cuda_offsets_that_are_not_finite_spoil_their_bin(memory):
    x, rois, offset = (tensor.cuda() for tensor in not_finite())
    check_not_finite(bridge.deform_roi_pool(x.to(memory_format=memory), rois, offset, (3, 2), 0.25, 2))
