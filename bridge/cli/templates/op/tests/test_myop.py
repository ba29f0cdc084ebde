"""mynamespace::myop: its reference, its kernel, and an engine with its plugin."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import bridge
from bridge.testing import DTYPES, check_cuda, check_export, check_op
from mynamespace_myop import myop

OP = bridge.OPS["mynamespace::myop"]
SHAPES = [(7,), (3, 5, 2), (1, 129), (0, 4)]  # odd ones, and an empty one
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("shape", SHAPES)
def test_reference(shape):
    """Schema, tracing, the C++ shape rule, and both derivatives."""
    check_op(OP, torch.randn(shape), limit=0.5)


def test_export():
    check_export(OP, lambda n: [torch.randn(n, 3)], [{0: Dim("batch", min=1, max=64)}], limit=2.0)


def test_bad_input():
    with pytest.raises(bridge.errors.OpInputError, match=r"myop: limit is 0\.0, expected"):
        myop(torch.ones(3), limit=0.0)


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel(shape, dtype):
    """Against the reference in float64: at most twice the error of the reference in this dtype."""
    check_cuda(OP, dtype, torch.randn(shape), limit=0.5)


class Net(nn.Module):
    def forward(self, x):
        return myop(x + 1, limit=2.0)


def test_engine():
    """One engine with the plugin in it; for compute capability 8.6 where there is no GPU."""
    target = None if torch.cuda.is_available() else "sm86"
    batch = Dim("batch", min=1, max=64)
    net = bridge.compile(Net().eval(), (torch.randn(3, 5),), dynamic_shapes=({0: batch},), target=target, cache=False)
    assert net.plugin_counts() == {"mynamespace::myop": 1}
