"""Traces a function of tensors as the body of an operator, without a model around it."""

import sympy

from bridge.generate.program import Launch, Symbol, TensorType
from bridge.generate.tracing.regions import cover
from bridge.generate.tracing.trace import Call, Input


def call_of_body(body, *inputs, arguments=(), **keywords):
    """The call of a body: its inputs first, then the other arguments.

    inputs: (dtype, extents) each, where an extent is a number, or (low, high, example) of a symbol of its own; None
    for a tensor that is absent.
    """
    symbols, types = [], []
    for given in inputs:
        if given is None:
            continue
        (dtype, extents), place = given, len(types)
        shape = [e if isinstance(e, int) else _symbol(symbols, place, axis, e) for axis, e in enumerate(extents)]
        types.append(TensorType(dtype, tuple(shape)))
    places = iter(range(len(types)))
    tensors = [None if each is None else Input(next(places)) for each in inputs]
    names = tuple(f"x{index}" for index in range(len(types)))
    given = (*tensors, *arguments)
    return Call(f"tracing_test::{body.__name__}", body, given, keywords, tuple(types), tuple(symbols), names)


def instance_of(body, *inputs, arguments=(), **keywords):
    """The instance of a body; see `call_of_body`."""
    return cover(call_of_body(body, *inputs, arguments=arguments, **keywords))


def launches(instance):
    """The launches of all regions, in order."""
    return [step for region in instance.regions for step in region.steps if isinstance(step, Launch)]


def _symbol(symbols, place, axis, limits):
    low, high, example = limits
    made = sympy.Symbol(f"s{len(symbols)}", integer=True, nonnegative=True)
    symbols.append(Symbol(made, place, axis, low, high, example))
    return made
