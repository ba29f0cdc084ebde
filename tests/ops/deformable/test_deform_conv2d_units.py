"""deform_conv2d with narrow offset groups on the GPU: sums of many terms and of few, tiles that are not whole."""

import pytest
import torch
from samples.deform_conv2d import deform_conv2d_arguments

import bridge
from bridge.core import libraries
from bridge.testing import cast

NUMBERS = {torch.float16: (7, 8, 9, 13), torch.float32: (11, 14)}
UNIT_KERNELS = [
    pytest.param(dtype, number, id=f"{dtype} {number}") for dtype, numbers in NUMBERS.items() for number in numbers
]
MOST_ERROR = {torch.float16: 2e-3, torch.float32: 1e-5}  # as a fraction of the largest value


def check(dtype, number, args, **kwargs):
    given = cast(args, dtype, "cuda")
    exact = bridge.deform_conv2d(*cast(given, torch.float64, "cpu"), **kwargs)
    with libraries.tactic("deform_conv2d", number):
        y = bridge.deform_conv2d(*given, **kwargs).cpu().double()
    assert (y - exact).abs().max() < MOST_ERROR[dtype] * exact.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), UNIT_KERNELS)
def test_more_terms_than_shared_memory_has_room_for(dtype, number):
    # 384 terms, and as many tiles, 264, as an H200 takes at once: no block has only a part of the terms.
    args = deform_conv2d_arguments(1, 24, (47, 63), 704, kernel=(8, 8), offset_groups=6, padding=(4, 4))
    check(dtype, number, args, padding=4)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), UNIT_KERNELS)
@pytest.mark.parametrize(("channels", "kernel"), [(8, 1), (16, 1), (8, 3)])
def test_fewer_stages_than_share_them(channels, kernel, dtype, number):
    args = deform_conv2d_arguments(1, channels, (9, 20), 16, kernel=(kernel, kernel), offset_groups=2)
    check(dtype, number, args)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), UNIT_KERNELS)
@pytest.mark.parametrize(("batch", "size"), [(1, (90, 160)), (1, (120, 214)), (2, (61, 137)), (3, (75, 98))])
def test_tiles_that_share_a_map_evenly_leave_nothing_out(batch, size, dtype, number):
    # On 132 multiprocessors, tiles of 8 × 16 would be 120, 210, 144 and 210.
    args = deform_conv2d_arguments(batch, 16, size, 24, offset_groups=2, padding=(1, 1))
    check(dtype, number, args, padding=1)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), UNIT_KERNELS)
@pytest.mark.parametrize("channels", [8, 16, 32])
def test_samples_anywhere_in_maps_of_every_width(channels, dtype, number):
    # Corners are read in an order that depends on where they lie. Units of 8, 16 and 32 bytes.
    for width in range(1, 18):
        args = deform_conv2d_arguments(1, channels, (5, width), 16, kernel=(1, 1), offset_groups=2, mask=False)
        args[1].uniform_(-3, width)
        check(dtype, number, args)
