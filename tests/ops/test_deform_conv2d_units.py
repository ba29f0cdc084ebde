"""deform_conv2d with narrow offset groups on the GPU: sums of many terms."""

import pytest
import torch
from samples.deform_conv2d import deform_conv2d_arguments

import bridge
from bridge.core import libraries
from bridge.testing import cast


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), [(torch.float16, 7), (torch.float16, 8), (torch.float32, 11)], ids=str)
def test_more_terms_than_shared_memory_has_room_for(dtype, number):
    # 384 terms, and as many tiles, 264, as an H200 takes at once: no block has only a part of the terms.
    args = deform_conv2d_arguments(1, 24, (47, 63), 704, kernel=(8, 8), offset_groups=6, padding=(4, 4))
    given = cast(args, dtype, "cuda")
    exact = bridge.deform_conv2d(*(t.cpu().double() for t in given), padding=4)
    with libraries.tactic("deform_conv2d", number):
        y = bridge.deform_conv2d(*given, padding=4).cpu().double()
    assert (y - exact).abs().max() < {torch.float16: 2e-3, torch.float32: 1e-5}[dtype] * exact.abs().max()
