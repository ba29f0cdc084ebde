"""Translates dynamic dimensions of torch.compile to torch.export, and conditions back to guards.

torch.compile traces with unbounded extents; an engine is built for a range. The range and the conditions of the export
become guards of torch.compile, so that a call that breaks them builds another engine.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bridge.engine_file.contents import TensorSpec
from bridge.graph.assumptions import broken_conditions, check_condition
from bridge.graph.scalar_inputs import is_dynamic
from bridge.graph.shape_profile import UNBOUNDED
from bridge.graph.symbolic import has_floats, interval_around


def dynamic_dims(fakes: Sequence[Tensor], growth: int) -> tuple[dict[int, Any], ...]:
    """For each input a dict axis → Dim for torch.export, with a range around the traced extent.

    growth: the most elements that an input may have through its unbounded dimensions, as a multiple of the example's.
    """
    dims: dict[sympy.Symbol, Any] = {}
    limits = _limits(fakes, growth)
    return tuple(
        {axis: dim for axis, extent in enumerate(fake.shape) if (dim := _dim(extent, dims, limits)) is not None}
        for fake in fakes
    )


def specialize_named(fakes: Sequence[Tensor], dims: Sequence[dict[int, Any]], error: str) -> list[tuple[int, int]]:
    """Specialises each dimension that an error of torch.export names, and removes it from `dims`.

    Returns (input, axis) of each; an empty list means that the error has another cause.
    """
    named = set(re.findall(_DIM_NAME, error))
    named_dims = [
        (index, axis)
        for index, axes in enumerate(dims)
        for axis, dim in axes.items()
        if named.intersection(re.findall(_DIM_NAME, dim.__name__))
    ]
    specialize(fakes, named_dims)
    for index, axis in named_dims:
        del dims[index][axis]
    return named_dims


def specialize(fakes: Sequence[Tensor], dynamic_dims: Sequence[tuple[int, int]]) -> None:
    """Puts a guard on each dimension, an (input, axis), that fixes it to the example's extent."""
    for index, axis in dynamic_dims:
        int(fakes[index].shape[axis])  # int() of a symbolic extent makes a guard


_DIM_NAME = r"\bd\d+_\w+"  # of a Dim, as `_dim` names it; a multiple is 2*d0_s1


def _limits(fakes: Sequence[Tensor], growth: int) -> dict[sympy.Symbol, int]:
    """The upper bound to give each symbol that has none."""
    limits: dict[sympy.Symbol, int] = {}
    for fake in fakes:
        pairs = [pair for extent in fake.shape for pair in _symbols(extent)]
        # A square image has one symbol twice, and counts twice.
        unbounded = [(symbol, env) for symbol, env in pairs if _upper_bound(env, symbol) is None]
        for symbol, env in unbounded:
            limit = 2 ** math.ceil(math.log2(_example_value(env, symbol) * growth ** (1 / len(unbounded))))
            limits[symbol] = min(limit, limits.get(symbol, limit), UNBOUNDED)
    return limits


def _symbols(extent: Any) -> list[tuple[sympy.Symbol, ShapeEnv]]:
    if not is_dynamic(extent):
        return []
    return [(symbol, extent.node.shape_env) for symbol in extent.node.expr.free_symbols]


def _upper_bound(env: ShapeEnv, symbol: sympy.Symbol) -> int | None:
    upper = env.bound_sympy(symbol).upper
    return int(upper) if upper.is_Integer and upper < UNBOUNDED else None


def _example_value(env: ShapeEnv, symbol: sympy.Symbol) -> int:
    return int(env.create_symintnode(symbol, hint=None).node.hint or 2)


def _dim(extent: Any, dims: dict[sympy.Symbol, Any], limits: Mapping[sympy.Symbol, int]) -> Any:
    """The Dim of an extent, None for a fixed one. An extent other than a * symbol + b is specialised."""
    if not is_dynamic(extent):
        return None
    expression, env = extent.node.expr, extent.node.shape_env
    factors = _linear_factors(expression)
    if factors is None:
        int(extent)
        return None
    symbol, scale, offset = factors
    if symbol not in dims:
        low = max(int(env.bound_sympy(symbol).lower), 0)
        high = _upper_bound(env, symbol) or limits[symbol]
        dims[symbol] = Dim(f"d{len(dims)}_{symbol}", min=low, max=max(high, low))
    dim = dims[symbol] if scale == 1 else scale * dims[symbol]
    return dim if offset == 0 else dim + offset


def _linear_factors(expression: sympy.Expr) -> tuple[sympy.Symbol, int, int] | None:
    """(symbol, a, b) of a * symbol + b with whole numbers, a > 0."""
    symbols = list(expression.free_symbols)
    if len(symbols) != 1:
        return None
    offset = expression.subs(symbols[0], 0)
    scale = expression.subs(symbols[0], 1) - offset
    exact = offset.is_Integer and scale.is_Integer and scale > 0 and expression == scale * symbols[0] + offset
    return (symbols[0], int(scale), int(offset)) if exact else None


def add_guards(fakes: Sequence[Tensor], program: ExportedProgram, specs: Mapping[str, TensorSpec]) -> None:
    """Adds guards for the range that an engine is built for and for the conditions of the capture.

    ExportError: a condition fails within the ranges, and is not on extents of inputs alone.
    """
    nodes = [node for node in program.graph.find_nodes(op="placeholder") if node.name in specs]
    sizes: dict[sympy.Symbol, Any] = {}
    for node, fake in zip(nodes, fakes, strict=True):
        spec, shape = specs[node.name], node.meta["val"].shape
        for extent, exported, low, high in zip(fake.shape, shape, spec.min, spec.max, strict=True):
            if is_dynamic(extent):
                _guard(extent >= low and extent <= high, f"{low} <= {extent} <= {high}")
                if is_dynamic(exported) and exported.node.expr.is_Symbol:
                    sizes[exported.node.expr] = extent
    for condition in broken_conditions(program):
        if condition.expression.free_symbols <= sizes.keys():
            _guard_condition(condition.expression, sizes, program.range_constraints)
        else:
            check_condition(program, condition)


def _guard_condition(condition: sympy.Basic, sizes: Mapping[sympy.Symbol, torch.SymInt], ranges: Any) -> None:
    """Adds a guard for a condition in a program's symbols. sizes: torch.compile's extent for each symbol.

    A guard that computes with floats ends the process (SIGSEGV in torch 2.11). It becomes bounds on the extent instead.
    """
    if has_floats(condition):
        for symbol in condition.free_symbols:
            extent = sizes[symbol]
            low, high = interval_around(condition, symbol, int(extent.node.hint), ranges)
            _guard(extent >= low and extent <= high, f"{low} <= {extent} <= {high}")
        return
    env = next(iter(sizes.values())).node.shape_env
    guard = condition.xreplace({symbol: extent.node.expr for symbol, extent in sizes.items()})
    _guard(guard == sympy.true or env.create_symboolnode(guard), str(condition))


def _guard(holds: bool | torch.SymBool, condition: str) -> None:
    """bool() of a symbolic condition makes it a guard."""
    if not bool(holds):
        raise AssertionError(f"the example itself violates {condition}")
