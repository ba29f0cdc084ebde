"""A function of tensors, lowered at example extents to a region that is right for as many others as possible."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from torch.utils._python_dispatch import _disable_current_modes

from bridge.errors import UnsupportedOpError
from bridge.generate.inductor.graph import FailedCallError, Input, traced_graph
from bridge.generate.inductor.steps import in_symbols_of_caller, region_of
from bridge.generate.program import Instance, Launch, Region, Symbol, TensorType
from bridge.graph.symbolic import size_oblivious


@dataclass(frozen=True)
class Lowered:
    """A function's kernels, and the tensors that they write."""

    region: Region
    outputs: tuple[TensorType, ...]


def lower(
    function: Callable[..., Any], inputs: Sequence[Input], symbols: Sequence[Symbol], *, any_dtype: bool = False
) -> Lowered:
    """The kernels of a function of tensors that returns a tensor or several.

    inputs: its arguments; an index of the region's pointers is a place among them. symbols: all that are in them. The
    region is right within their ranges where its conditions hold. They hold at the examples, for which configurations
    are chosen; where they do not, lower again with other examples.
    any_dtype: whether inputs and outputs may have dtypes that those of a plugin may not.
    UnsupportedOpError: an operator calls a library, makes random or complex numbers, needs values on the host or writes
    to an input; or a tensor has a dtype that plugins do not take. The message names the operator and its line.
    """
    with _disable_current_modes():  # the caller may be tracing
        return _lower_somewhere(functools.partial(_lower, function, inputs, any_dtype), symbols)


def _lower_somewhere(lower_for: Callable[..., Lowered], symbols: Sequence[Symbol]) -> Lowered:
    """Over all of the ranges, or apart from extents of 0 and 1, or where torch's questions have the same answers."""
    apart = tuple(map(_apart_from_one, symbols))
    try:
        return lower_for(symbols, asks=False)
    except UnsupportedOpError as error:
        if isinstance(error, FailedCallError) and all(symbol.example > 1 for symbol in symbols):
            raise
        for asks in (False, True):
            with contextlib.suppress(UnsupportedOpError):
                lowered = lower_for(apart, asks=asks)
                break
        else:
            raise error from None
    conditions = (_range_condition(new) for old, new in zip(symbols, apart, strict=True) if old != new)
    region = dataclasses.replace(lowered.region, conditions=(*conditions, *lowered.region.conditions))
    return dataclasses.replace(lowered, region=region)


def _lower(
    function: Callable[..., Any], inputs: Sequence[Input], any_dtype: bool, symbols: Sequence[Symbol], *, asks: bool
) -> Lowered:
    """asks: whether torch asks if extents are 0 or 1, and the region is right for its answers alone."""
    try:
        from bridge.generate.inductor import torch_inductor
    except ImportError as error:
        raise UnsupportedOpError(f"{error}; kernels are generated with torch 2.11 to 2.14") from error
    with torch_inductor.inductor_without_gpu(), size_oblivious(not asks):
        graph = traced_graph(function, inputs, symbols, torch_inductor.decompositions(), any_dtype)
        code = torch_inductor.code_of(graph)
    given = [place for place, one in enumerate(inputs) if one is not None]
    region = region_of(code, graph, dict(zip(code.inputs, given, strict=True)))
    _check_example(region, symbols)
    outputs = (
        TensorType(one.dtype, tuple(in_symbols_of_caller(extent, graph) for extent in one.shape))
        for one in graph.outputs
    )
    return Lowered(region, tuple(outputs))


def _check_example(region: Region, symbols: Sequence[Symbol]) -> None:
    """UnsupportedOpError: a condition does not hold at the examples: the function drops an extent of 1."""
    examples = {symbol.symbol: sympy.Integer(symbol.example) for symbol in symbols}
    for condition in region.conditions:
        if condition.xreplace(examples) == False:  # noqa: E712
            raise UnsupportedOpError(f"no kernel can be made where {condition} does not hold, as at {examples}")


def _apart_from_one(symbol: Symbol) -> Symbol:
    """Within a range of extents above 1, or one extent of 0 or 1."""
    if symbol.example < 2:
        return dataclasses.replace(symbol, low=symbol.example, high=symbol.example)
    return dataclasses.replace(symbol, low=max(symbol.low, 2))


def _range_condition(symbol: Symbol) -> sympy.Basic:
    return sympy.Eq(symbol.symbol, symbol.low) if symbol.low == symbol.high else sympy.Ge(symbol.symbol, symbol.low)


def wrote_all(instance: Instance) -> bool:
    """Whether every kernel of an instance is Inductor's."""
    launches = [step for region in instance.regions for step in region.steps if isinstance(step, Launch)]
    return all(each.kernel.fn.__module__.startswith("torch._inductor.") for each in launches)
