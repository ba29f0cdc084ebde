"""Assertions of tensors' values: they go, and assertions of extents stay."""

import pytest
import torch
from programs import Function
from torch.export import Dim

import bridge
from bridge.graph import capture
from bridge.graph.value_assertions import without_value_assertions

aten = torch.ops.aten


def exported(function, x, shapes=None):
    return capture.export(Function(function).eval(), (x,), {}, {"args": (shapes,)} if shapes else None)


def assertions(program):
    return program.graph.find_nodes(op="call_function", target=aten._assert_scalar.default)


def of_all(x):
    torch._check_tensor_all((x > -100).any(0))
    return x * 2


def of_an_item(x):
    torch._check((x.sum() == x.sum()).item())
    return x * 2


@pytest.mark.parametrize("function", [of_all, of_an_item])
def test_what_is_asserted_of_values_goes(function):
    x = torch.randn(3, 4)
    program = exported(function, x)
    found = without_value_assertions(program)
    assert assertions(program) and not assertions(found)
    assert not found.graph.find_nodes(op="call_function", target=aten.item.default)
    assert torch.equal(found.module()(x), x * 2)
    compiled = bridge.compile(Function(function).eval(), (x,), target="sm86")
    assert len(compiled.inputs) == 1


def test_a_value_that_is_used_stays():
    def function(x):
        flag = (x.sum() == x.sum()).item()
        torch._check(flag)
        return x * 2, torch.full((2,), flag)

    x = torch.randn(3)
    found = without_value_assertions(exported(function, x))
    assert not assertions(found)
    y, flags = found.module()(x)
    assert torch.equal(y, x * 2) and flags.tolist() == [1.0, 1.0]


def test_what_is_asserted_of_extents_and_of_numbers_stays():
    def function(x):
        count = x.shape[0]
        torch._check(count > 2)
        kept = x[: (x > 0).sum().item()]
        return kept.sum()

    program = exported(function, torch.rand(5), {0: Dim("n", min=3, max=9)})
    assert without_value_assertions(program) is program
