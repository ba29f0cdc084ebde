"""Both ops against their definitions, and engines of the model that uses them."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import bridge
from acme_soft import SoftNet, soft_gate, window_pool

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pooled_by_definition(x, scores, window):
    y = torch.zeros_like(x)
    for t in range(x.shape[1]):
        first = max(0, t - window + 1)
        weights = scores[:, first : t + 1].softmax(1)
        y[:, t] = (weights[..., None] * x[:, first : t + 1]).sum(1)
    return y


@pytest.mark.parametrize("window", [1, 3, 9])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 17, 8), (0, 4, 2)], ids=str)
def test_window_pool(shape, window):
    x, scores = randn(*shape), randn(*shape[:2], seed=1)
    torch.testing.assert_close(window_pool(x, scores, window), pooled_by_definition(x, scores, window))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0.5, 3.0, 6.9])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_soft_gate_sums_to_k_and_keeps_the_order(k, temperature, dtype):
    scores = randn(4, 5, 7).mul(10).to(dtype)
    gate = soft_gate(scores, k, temperature)
    assert gate.dtype == dtype and gate.min() >= 0 and gate.max() <= 1
    torch.testing.assert_close(gate.double().sum(-1), torch.full((4, 5), k).double(), rtol=1e-2, atol=2e-2)
    order = scores.argsort(-1)
    assert (gate.gather(-1, order).diff(dim=-1) >= 0).all()


def test_a_cold_gate_is_a_hard_one():
    scores = torch.tensor([0.1, 5.0, -3.0, 4.0, 0.2])
    torch.testing.assert_close(soft_gate(scores, 2.0, 0.01), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]))


def test_calls_that_do_not_fit():
    with pytest.raises(bridge.errors.OpInputError, match="window is 0, expected 1 or more"):
        window_pool(randn(1, 2, 3), randn(1, 2), 0)
    with pytest.raises(
        bridge.errors.OpInputError, match=r"scores has shape \(2, 1\), expected \[B, T\] of x, \(1, 2\)"
    ):
        window_pool(randn(1, 2, 3), randn(2, 1), 2)
    with pytest.raises(ValueError, match=r"k is 3\.0 and temperature 1\.0, expected 0 < k < 3"):
        soft_gate(randn(2, 3), 3.0)


def test_torch_takes_them():
    torch.library.opcheck(soft_gate, (randn(2, 3), 2.0, 0.5))
    torch.library.opcheck(torch.ops.acme_soft.window_pool.default, (randn(2, 5, 3), randn(2, 5, seed=1), 2))


@pytest.mark.parametrize("target", ["sm86", "sm120"])
def test_engine(target):
    """One engine with both ops as plugins, for which nobody wrote a kernel. Few channels compile in less time."""
    sizes = {0: Dim("batch", min=1, max=8), 1: Dim("length", min=2, max=128)}
    model = SoftNet(width=8, channels=24, k=5.0).eval()
    net = bridge.compile(model, (randn(2, 9, 8),), dynamic_shapes=(sizes,), target=target)
    assert len(net.plugin_counts()) == 2


class Both(nn.Module):
    def forward(self, x, scores):
        return window_pool(x, scores, 3), soft_gate(x, 4.5, 0.5)


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_engine_against_eager(dtype):
    batch, length = Dim("batch", min=1, max=6), Dim("length", min=1, max=200)
    sizes = ({0: batch, 1: length}, {0: batch, 1: length})

    def inputs(b, t):
        return randn(b, t, 33).to("cuda", dtype), randn(b, t, seed=1).to("cuda", dtype)

    net = bridge.compile(Both().eval(), inputs(2, 50), dynamic_shapes=sizes)
    for shape in [(1, 1), (6, 200), (1, 200), (6, 1), (2, 3), (3, 17), (5, 64), (4, 129), (2, 199), (3, 2)]:
        call = inputs(*shape)
        expected = window_pool(*(t.float().cpu() for t in call), 3), soft_gate(call[0].float().cpu(), 4.5, 0.5)
        for result, wanted in zip(net(*call), expected, strict=True):
            tolerance = TOLERANCES[dtype]
            torch.testing.assert_close(result.float().cpu(), wanted, rtol=tolerance, atol=tolerance)
