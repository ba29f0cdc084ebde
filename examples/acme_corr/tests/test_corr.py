"""acme::corr: its reference, its kernel, and engines of the flow model."""

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import bridge
from bridge.testing import DTYPES, check_cuda, check_export, check_op
from acme_corr import FlowNet, corr

OP = bridge.OPS["acme::corr"]
# Odd extents and radii: a map smaller than the window, one wider than a block's piece of a row, and an empty one.
CALLS = [
    ((2, 3, 5, 7), (1, 2)),
    ((1, 17, 9, 4), (4, 4)),
    ((1, 5, 3, 131), (0, 6)),
    ((2, 9, 2, 33), (5, 1)),
    ((0, 4, 6, 6), (1, 1)),
]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def features(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(2)]


@pytest.mark.parametrize(("shape", "radii"), [((1, 2, 3, 2), (1, 1)), ((1, 3, 2, 1), (0, 2)), ((0, 4, 6, 6), (1, 1))])
def test_reference(shape, radii):
    """Schema, tracing, the C++ shape rule, and both derivatives."""
    check_op(OP, *features(shape), radii=list(radii))


def test_the_cost_is_a_product_of_shifted_maps():
    f1, f2 = features((1, 4, 6, 8))
    cost, _ = corr(f1, f2, [1, 2])
    assert cost.shape == (1, 15, 6, 8)
    expected = (f1[..., 1:, :7] * f2[..., :5, 1:]).sum(1) / 2  # dy = -1, dx = 1
    torch.testing.assert_close(cost[:, 3, 1:, :7], expected)
    assert cost[:, 3, 0].abs().max() == 0 and cost[:, 3, :, 7].abs().max() == 0


def test_the_flow_finds_a_shift():
    f1 = F.normalize(features((1, 64, 9, 9))[0], dim=1) * 40
    _, flow = corr(f1, f1.roll((1, -2), (2, 3)), [2, 3])
    inner = flow[0, :, 3:6, 3:6]
    torch.testing.assert_close(inner[0], torch.full((3, 3), -2.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(inner[1], torch.full((3, 3), 1.0), atol=1e-3, rtol=0)


def test_export():
    sizes = {0: Dim("batch", min=1, max=8), 2: Dim("height", min=2, max=64)}
    check_export(OP, lambda n: features((n, 3, n + 2, 5)), [sizes, sizes], radii=[1, 2])


@pytest.mark.parametrize(
    ("other", "radii", "text"),
    [
        ((1, 3, 4, 5), (1,), r"radii is \[1\], expected \[vertical, horizontal\], each 0 to 16"),
        ((1, 3, 4, 5), (1, 17), r"radii is \[1, 17\]"),
        ((1, 3, 4, 6), (1, 1), r"f2 has shape \(1, 3, 4, 6\), expected that of f1, \(1, 3, 4, 5\)"),
    ],
)
def test_bad_input(other, radii, text):
    with pytest.raises(bridge.errors.OpInputError, match=text):
        corr(torch.ones(1, 3, 4, 5), torch.ones(other), list(radii))


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "radii"), CALLS)
def test_kernel(shape, radii, dtype):
    """Against the reference in float64: at most twice the error of the reference in this dtype."""
    check_cuda(OP, dtype, *features(shape), radii=list(radii))


def test_engine():
    """One engine with the plugin in it; for compute capability 8.6 where there is no GPU."""
    target = None if torch.cuda.is_available() else "sm86"
    sizes = {0: Dim("batch", min=1, max=4)}
    images = torch.randn(2, 3, 48, 64), torch.randn(2, 3, 48, 64)
    net = bridge.compile(FlowNet().eval(), images, dynamic_shapes=(sizes, sizes), target=target, cache=False)
    assert net.plugin_counts() == {"acme::corr": 1}
