"""Dynamic dimensions between torch.compile and torch.export.

torch.compile traces with extents that may be any number; an engine is built for a range. What the engine's range and
torch.export's own conditions add becomes guards of torch.compile, so that a call outside them makes a new engine.
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
from bridge.graph.assumptions import broken, check_condition
from bridge.graph.scalar_inputs import is_dynamic
from bridge.graph.shape_profile import UNBOUNDED
from bridge.graph.symbolic import around, has_floats


def dimensions(fakes: Sequence[Tensor], growth: int) -> tuple[dict[int, Any], ...]:
    """For torch.export, of each input: axis → Dim, with a range around what torch.compile traced.

    growth: how many times the example's elements an input may have in dimensions that no one bounded.
    """
    dims: dict[sympy.Symbol, Any] = {}
    limits = _limits(fakes, growth)
    return tuple(
        {axis: dim for axis, extent in enumerate(fake.shape) if (dim := _dim(extent, dims, limits)) is not None}
        for fake in fakes
    )


def fix_named(fakes: Sequence[Tensor], dims: Sequence[dict[int, Any]], refusal: str) -> list[tuple[int, int]]:
    """Fixes, with a guard, each dimension that torch.export names in its refusal of `dims`, and takes it out of them.

    Returns (input, axis) of each; none where it names none, and the trouble is another one.
    """
    named = set(re.findall(_NAME, refusal))
    found = [
        (place, axis)
        for place, axes in enumerate(dims)
        for axis, dim in axes.items()
        if named.intersection(re.findall(_NAME, dim.__name__))
    ]
    fix(fakes, found)
    for place, axis in found:
        del dims[place][axis]
    return found


def fix(fakes: Sequence[Tensor], dimensions: Sequence[tuple[int, int]]) -> None:
    """Guards that each dimension, an (input, axis), has the example's extent."""
    for place, axis in dimensions:
        int(fakes[place].shape[axis])  # whoever asks a symbolic extent for its number makes a guard


_NAME = r"\bd\d+_\w+"  # of a Dim, as `_dim` makes it; that of a multiple is 2*d0_s1


def _limits(fakes: Sequence[Tensor], growth: int) -> dict[sympy.Symbol, int]:
    """The greatest value of each symbol that has no upper bound of its own."""
    limits: dict[sympy.Symbol, int] = {}
    for fake in fakes:
        pairs = [pair for extent in fake.shape for pair in _symbols(extent)]
        free = [(symbol, env) for symbol, env in pairs if _upper(env, symbol) is None]  # that of a square image twice
        for symbol, env in free:
            limit = 2 ** math.ceil(math.log2(_hint(env, symbol) * growth ** (1 / len(free))))
            limits[symbol] = min(limit, limits.get(symbol, limit), UNBOUNDED)
    return limits


def _symbols(extent: Any) -> list[tuple[sympy.Symbol, ShapeEnv]]:
    if not is_dynamic(extent):
        return []
    return [(symbol, extent.node.shape_env) for symbol in extent.node.expr.free_symbols]


def _upper(env: ShapeEnv, symbol: sympy.Symbol) -> int | None:
    upper = env.bound_sympy(symbol).upper
    return int(upper) if upper.is_Integer and upper < UNBOUNDED else None


def _hint(env: ShapeEnv, symbol: sympy.Symbol) -> int:
    return int(env.create_symintnode(symbol, hint=None).node.hint or 2)


def _dim(extent: Any, dims: dict[sympy.Symbol, Any], limits: Mapping[sympy.Symbol, int]) -> Any:
    """The Dim of an extent, None for a fixed one. One that is no a * symbol + b becomes fixed, with a guard."""
    if not is_dynamic(extent):
        return None
    expression, env = extent.node.expr, extent.node.shape_env
    factors = _linear(expression)
    if factors is None:
        int(extent)
        return None
    symbol, scale, offset = factors
    if symbol not in dims:
        low = max(int(env.bound_sympy(symbol).lower), 0)
        high = _upper(env, symbol) or limits[symbol]
        dims[symbol] = Dim(f"d{len(dims)}_{symbol}", min=low, max=max(high, low))
    dim = dims[symbol] if scale == 1 else scale * dims[symbol]
    return dim if offset == 0 else dim + offset


def _linear(expression: sympy.Expr) -> tuple[sympy.Symbol, int, int] | None:
    """(symbol, a, b) of a * symbol + b with whole numbers, a > 0."""
    symbols = list(expression.free_symbols)
    if len(symbols) != 1:
        return None
    offset = expression.subs(symbols[0], 0)
    scale = expression.subs(symbols[0], 1) - offset
    exact = offset.is_Integer and scale.is_Integer and scale > 0 and expression == scale * symbols[0] + offset
    return (symbols[0], int(scale), int(offset)) if exact else None


def add_guards(fakes: Sequence[Tensor], program: ExportedProgram, specs: Mapping[str, TensorSpec]) -> None:
    """Makes guards of the range that an engine is built for, and of the conditions that torch.export left.

    ExportError: a condition is on none of the inputs' extents, and does not hold for all of them.
    """
    nodes = [node for node in program.graph.find_nodes(op="placeholder") if node.name in specs]
    sizes: dict[sympy.Symbol, Any] = {}
    for node, fake in zip(nodes, fakes, strict=True):
        spec, shape = specs[node.name], node.meta["val"].shape
        for extent, inner, low, high in zip(fake.shape, shape, spec.min, spec.max, strict=True):
            if is_dynamic(extent):
                _guard(extent >= low and extent <= high, f"{low} <= {extent} <= {high}")
                if is_dynamic(inner) and inner.node.expr.is_Symbol:
                    sizes[inner.node.expr] = extent
    for condition in broken(program):
        if condition.expression.free_symbols <= sizes.keys():
            _guard_condition(condition.expression, sizes, program.range_constraints)
        else:
            check_condition(program, condition)


def _guard_condition(condition: sympy.Basic, sizes: Mapping[sympy.Symbol, torch.SymInt], ranges: Any) -> None:
    """The same of a condition in a program's symbols. sizes: torch.compile's extent for each.

    torch 2.11 ends the process with SIGSEGV in a guard that computes with floats: those become bounds of the extent, or
    fix it.
    """
    if has_floats(condition):
        for symbol in condition.free_symbols:
            extent = sizes[symbol]
            low, high = around(condition, symbol, int(extent.node.hint), ranges)
            _guard(extent >= low and extent <= high, f"{low} <= {extent} <= {high}")
        return
    env = next(iter(sizes.values())).node.shape_env
    theirs = condition.xreplace({symbol: extent.node.expr for symbol, extent in sizes.items()})
    _guard(theirs == sympy.true or env.create_symboolnode(theirs), str(condition))


def _guard(holds: bool | torch.SymBool, condition: str) -> None:
    """Asking a symbolic condition for its truth is what makes it a guard."""
    if not bool(holds):
        raise AssertionError(f"the example itself does not have {condition}")
