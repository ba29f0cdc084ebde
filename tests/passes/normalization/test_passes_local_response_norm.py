"""The pass local_response_norm: PyTorch's layer of every rank, and what only resembles it."""

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim, export

import bridge
from bridge.core.op import OPS
from bridge.passes import rewrite

OP = OPS["local_response_norm"].overload
BATCH, HEIGHT = Dim("batch", min=2, max=16), Dim("height", min=2, max=64)


class Stem(nn.Module):
    """The first layers of GoogLeNet."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 7, stride=2, padding=3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.LocalResponseNorm(5, alpha=1e-2, beta=0.75, k=2.0),
            nn.Conv2d(16, 16, 1),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=1e-2),
        )

    def forward(self, x):
        return self.layers(x)


class Written(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def rewritten(model, x, shapes=None, decomposed=False):
    program = export(model.eval(), (x,), dynamic_shapes=shapes)
    return rewrite(program.run_decompositions() if decomposed else program, ["local_response_norm"])


def calls(program):
    return program.graph.find_nodes(op="call_function", target=OP)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("size", [1, 4, 5, 9])
@pytest.mark.parametrize("shape", [(2, 7, 9), (2, 7, 9, 11), (2, 7, 3, 4, 5)])
def test_is_found(shape, size, decomposed):
    model, x = nn.LocalResponseNorm(size, alpha=0.5, beta=0.6, k=2.0), torch.randn(shape)
    program, outcomes = rewritten(model, x, ({0: BATCH},), decomposed)
    assert [outcome.what for outcome in outcomes] == [f"bridge.local_response_norm, window {size}, alpha=0.5, beta=0.6"]
    (call,) = calls(program)
    assert call.kwargs == {"size": size, "alpha": 0.5, "beta": 0.6, "k": 2.0}
    other = torch.randn(5, *shape[1:])
    torch.testing.assert_close(program.module()(other), model(other))


def squares(x, *, pad=(2, 2), size=5, axis=1, **settings):
    """As PyTorch writes it, with other settings."""
    padded = F.pad((x * x).unsqueeze(axis), (0, 0, 0, 0, *pad))
    return F.avg_pool3d(padded, (size, 1, 1), stride=1, **settings).squeeze(axis)


NEAR_MISSES = [
    ("padded at one end", lambda x: x / (squares(x, pad=(4, 0)) * 0.1 + 1).pow(0.75)),
    ("over rows", lambda x: x / (squares(x, axis=2) * 0.1 + 1).pow(0.75)),
    ("another divisor", lambda x: x / (squares(x, divisor_override=7) * 0.1 + 1).pow(0.75)),
    ("of another tensor", lambda x: (x + 1) / (squares(x) * 0.1 + 1).pow(0.75)),
    ("a root", lambda x: x / (squares(x) * 0.1 + 1).sqrt()),
    ("a plain quotient", lambda x: x / (x.abs() + 1).pow(0.5)),
    ("times x", lambda x: x / (squares(x) * x + 1).pow(0.75)),
]


@pytest.mark.parametrize("function", [pytest.param(function, id=label) for label, function in NEAR_MISSES])
def test_near_misses_stay(function):
    program, outcomes = rewritten(Written(function), torch.randn(2, 9, 9, 8))
    assert not calls(program) and not any(outcome.replaced for outcome in outcomes)


def test_what_is_written_out_is_found():
    x = torch.randn(2, 7, 9, 8)
    model = Written(lambda x: x / (squares(x) * 0.1 + 1).pow(0.75))
    program, (outcome,) = rewritten(model, x)
    assert outcome.replaced
    torch.testing.assert_close(program.module()(x), model(x))


def test_double_precision_is_declined():
    _, (outcome,) = rewritten(nn.LocalResponseNorm(5), torch.randn(2, 7, 9, 8).double())
    assert not outcome.replaced and "float64" in outcome.what


def test_an_engine_of_the_stem():
    pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
    model, x = Stem().eval(), torch.randn(2, 3, 33, 41)
    with oracle.interpreted(engines=True):
        compiled = oracle.ahead(model, (x,), ({0: BATCH},), passes=["local_response_norm"])
        for batch in (2, 3):
            given = torch.randn(batch, *x.shape[1:])
            torch.testing.assert_close(compiled(given), model(given), rtol=1e-4, atol=1e-4)
    assert bridge.report(compiled).plugin_counts() == {"local_response_norm": 2}
