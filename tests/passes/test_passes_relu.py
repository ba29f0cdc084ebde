"""The pass that finds leaky ReLUs, which is off unless it is asked for."""

import math

import pytest
import torch
import torch.nn.functional as F
from rope_programs import export

import bridge
from bridge.passes import pass_names, rewrite

OP = torch.ops.bridge.relu.default
FOUND = {
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), (0.1, None)),
    "where, turned round": (lambda x: torch.where(x <= 0, x * 0.3, x), (0.3, None)),
    "maximum": (lambda x: torch.maximum(0.2 * x, x), (0.2, None)),
    "clipped": (lambda x: F.leaky_relu(x, 0.1).clamp(max=6), (0.1, 6.0)),
    "clipped twice": (lambda x: F.leaky_relu(x, 0.1).clamp(max=0.5).clamp_max(2), (0.1, 0.5)),
    "where, clipped below 0": (lambda x: torch.where(x >= 0, x, -2 * x).clamp_max(-0.5), (-2.0, -0.5)),
    "other uses": (lambda x: (y := F.leaky_relu(x, 0.1)) * 0 + y.clamp(max=6), (0.1, 6.0)),
}
ALONE = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "clamp": lambda x: x.clamp(0, 3),
    "minimum": lambda x: x.clamp(max=3),
    "both ends": lambda x: F.leaky_relu(x, 0.1).clamp(-1, 3),
    "other comparison": lambda x: torch.where(x > 1, x, 0.1 * x),
    "other tensor": lambda x: torch.where(x > 0, x, 0.1 * (x + 1)),
    "wrong side": lambda x: torch.where(x > 0, 0.1 * x, x),
    "steep": lambda x: torch.maximum(2 * x, x),
    "whole numbers": lambda x: (y := x.int()).maximum(2 * y),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", FOUND)
def test_found(name, dtype):
    write, expected = FOUND[name]
    x = (torch.randn(4, 5, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    x[0] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0])
    program = export(write, (x,))
    for given in (program, program.run_decompositions()):
        found, outcomes = rewrite(given, ["relu"])
        (call,) = found.graph.find_nodes(op="call_function", target=OP)
        assert call.args[1:] == expected and [outcome.replaced for outcome in outcomes] == [True]
        torch.testing.assert_close(found.module()(x), write(x), equal_nan=True)


@pytest.mark.parametrize("name", ALONE)
def test_left_alone(name):
    program = export(ALONE[name], (torch.randn(4, 5),))
    assert rewrite(program, ["relu"]) == (program, [])


def test_slope_of_zero_is_declined():
    program = export(lambda x: F.relu(x).clamp(max=6), (torch.randn(4),))
    found, (outcome,) = rewrite(program, ["relu"])
    assert found is program and "its slope is 0" in outcome.what


def test_written_in_place():
    def write(x):
        y = x * 1
        condition, scaled = y > 0, 0.1 * y
        y.add_(1)
        return torch.where(condition, y.view(-1), scaled)

    program = export(write, (torch.randn(4),))
    found, outcomes = rewrite(program, ["relu"])
    assert found is program and not any(outcome.replaced for outcome in outcomes)


def test_is_off_by_default():
    assert "relu" not in pass_names(True) and pass_names(["relu"]) == ("relu",)


def test_bridge_compile():
    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.where(x > 0, x, 0.1 * x).clamp(max=6)

    x = torch.randn(4, 5)
    assert bridge.compile(Model().eval(), (x,), target="sm86").plugin_counts() == {}
    compiled = bridge.compile(Model().eval(), (x,), target="sm86", passes=["relu"])
    assert compiled.plugin_counts() == {"relu": 1}
    assert "bridge.relu, negative_slope=0.1, max_value=6" in compiled.explain()
