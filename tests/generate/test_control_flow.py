"""Operators that take functions, in an op and in a model, are refused with their line and what to do."""

import pytest
import torch
from torch import nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.export import Dim
from traced import instance_of

import bridge
from bridge.errors import UnsupportedOpError
from bridge.graph.control_flow import refusal


def chosen(x):
    return torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (x,))


def repeated(x):
    count = torch.zeros((), dtype=torch.int64, device=x.device)
    return while_loop(lambda i, t: i < 5, lambda i, t: (i + 1, t * 1.5), (count, x))[1]


def carried(x):
    return scan(lambda state, t: (state + t, state * t), torch.zeros_like(x[0]), x, dim=0)[1]


FUNCTIONS = {
    chosen: r"torch\.cond runs one of two functions, chosen by a value\. Compute both.*torch\.where",
    repeated: r"torch\.while_loop runs for as long as a value says\. Write a loop of Python",
    carried: r"torch's scan carries a state from step to step\. Write a loop of Python",
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_in_an_op(function):
    with pytest.raises(UnsupportedOpError, match=FUNCTIONS[function]) as caught:
        instance_of(function, (torch.float32, ((1, 8, 4), 16)))
    line = function.__code__.co_firstlineno
    assert f"tracing_test::{function.__name__} cannot become a plugin" in str(caught.value)
    assert f"{__file__}:{line + 1 + (function is repeated)} in {function.__name__}" in str(caught.value)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_in_a_model(function):
    class Net(nn.Module):
        def forward(self, x):
            return function(x) * 2

    with pytest.raises(UnsupportedOpError, match=FUNCTIONS[function]) as caught:
        bridge.compile(Net().eval(), (torch.ones(4, 16),), target="sm86", generate=True)
    assert f"{__file__}:" in str(caught.value) and "eval_with_key" not in str(caught.value)


def recurrence(gate, x):
    return associative_scan(
        lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (gate.sigmoid(), x), dim=1, combine_mode="pointwise"
    )[1]


recurrence_op = torch.library.custom_op(
    "control_flow_test::recurrence", recurrence, mutates_args=(), schema="(Tensor gate, Tensor x) -> Tensor"
)
recurrence_op.register_fake(lambda gate, x: torch.empty_like(x))


class Recurrent(nn.Module):
    def forward(self, gate, x):
        return recurrence_op(gate, x) + 1


def test_an_associative_scan_in_an_op_is_a_kernel_of_inductors():
    width = Dim("width", min=1, max=5000)
    x = torch.ones(4, 700)
    compiled = bridge.compile(Recurrent().eval(), (x, x), dynamic_shapes=({1: width},) * 2, target="sm86")
    assert list(compiled.plugin_counts().values()) == [1]


def test_a_function_of_a_scan_may_not_do_what_kernels_cannot():
    def body(x):
        return associative_scan(lambda a, b: a + torch.rand_like(b), x, dim=1)

    with pytest.raises(UnsupportedOpError, match="its random numbers would not be torch's"):
        instance_of(body, (torch.float32, ((1, 8, 4), 16)))


def test_names_are_those_of_this_torch():
    """A renamed operator would be refused without a reason."""
    operators = torch.ops.higher_order
    for name in ("cond", "while_loop", "scan", "associative_scan", "map_impl", "flex_attention"):
        assert refusal(getattr(operators, name)), name
    assert refusal(operators.triton_kernel_wrapper_functional) is None and refusal(torch.ops.aten.add.Tensor) is None
