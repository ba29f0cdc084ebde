"""deform_conv2d's kernels begin before those before them have ended, and wait for what they read."""

import pytest
import torch
from samples.deform_conv2d import deform_conv2d_arguments
from waiting import check_waits

import bridge
from bridge.core import libraries
from bridge.testing import cast

# Channels, offset groups and the number of a kernel: of each kind, on compute capability 9.0.
KINDS = {"tiles": (256, 1, 5), "columns": (256, 1, 11), "units": (64, 16, 8), "direct": (64, 1, 0), "own": (128, 2, -1)}


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("size", [(14, 14), (96, 160)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_waits_for_what_comes_before(kind, size, captured):
    channels, offset_groups, number = KINDS[kind]
    arguments = deform_conv2d_arguments(1, channels, size, channels, offset_groups=offset_groups, padding=(1, 1))
    x, offset, weight, bias, mask = cast(arguments, torch.half, "cuda")
    weight /= 3 * channels**0.5
    with libraries.tactic("deform_conv2d", number):
        check_waits(lambda x: bridge.deform_conv2d(x, offset, weight, bias, mask, padding=1), x, captured)
