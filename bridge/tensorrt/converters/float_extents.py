"""Integers computed from extents through floats, such as int(h * 1.5), and sequences of dynamic length.

An engine's floats round differently from Python's. So such an integer is computed here, with the model's operations,
for every value of the extents. It becomes (a * extent + b) // c if that equals all of them, else a table.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch.fx import GraphModule, Node
from torch.utils._sympy.value_ranges import bound_sympy

from bridge.errors import UnsupportedOpError
from bridge.graph.model_source import model_line

_MAX_VALUES = 2**20  # of the extents, for each integer
_MAX_TABLE = 2**16
_DIVISORS = range(1, 101)
_ARANGES = (torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step)


def scaled(extent: int, factor: int, offset: int, divisor: int) -> int:
    """(factor * extent + offset) // divisor."""
    return (factor * extent + offset) // divisor


def lookup(table: Sequence[Any], *terms: tuple[Any, int, int]) -> Any:
    """The value for extents in a flattened table. terms: (extent, least value, count) of each axis."""
    index = 0
    for extent, low, count in terms:
        index = index * count + extent - low
    return table[index]


def steps(start: int, end: int, step: int) -> int:
    """The number of elements of torch.arange."""
    return -((start - end) // step)


def ramp(count: int, start: Any, step: Any, dtype: torch.dtype) -> torch.Tensor:
    """start, start + step, ...: `count` elements."""
    return (start + step * torch.arange(count)).to(dtype)


def make_integer(module: GraphModule, ranges: Any) -> None:
    """Rewrites a lowered graph: no integer or condition is computed from floats, and every dynamic arange is a `ramp`.

    ranges: of the symbols, as in an exported program.
    UnsupportedOpError: an integer has more values than a table may have, and is no (a * extent + b) // c.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in _ARANGES and any(isinstance(argument, Node) for argument in node.args):
            _replace_arange(node, ranges)
        elif _is_scalar(node, (torch.SymInt, torch.SymBool)) and any(map(_is_float, node.all_input_nodes)):
            with graph.inserting_before(node):
                integer = _tabulate(node, node, ranges)
            integer.meta = dict(node.meta)
            node.replace_all_uses_with(integer)
    graph.eliminate_dead_code()
    module.recompile()


def _replace_arange(node: Node, ranges: Any) -> None:
    start, end, step = (0, *node.args, 1) if len(node.args) == 1 else (*node.args, 1)[:3]
    with node.graph.inserting_before(node):
        if all(isinstance(value, int) or not _is_float(value) for value in (start, end, step)) and isinstance(
            step, int
        ):
            count = node.graph.call_function(steps, (start, end, step))
        else:
            count = _tabulate(node, (start, end, step), ranges)
        dtype = node.meta["val"].dtype
        integers = node.graph.call_function(ramp, (count, start, step, dtype))
    integers.meta = dict(node.meta)
    node.replace_all_uses_with(integers)


def _count(start: Any, end: Any, step: Any) -> int:
    return max(math.ceil((end - start) / step), 0)


def _tabulate(node: Node, expression: Any, ranges: Any) -> Node:
    """A node for the integer or condition `expression`: a node of floats, or the start, end and step of an arange."""
    roots = expression if isinstance(expression, tuple) else (expression,)
    leaves = list(
        dict.fromkeys(leaf for root in roots if isinstance(root, Node) for leaf in _leaves(root, root is expression))
    )
    bounds = [_bounds(leaf, ranges, node) for leaf in leaves]
    sizes = [high - low + 1 for low, high in bounds]
    graph = node.graph
    if math.prod(sizes) > _MAX_VALUES:
        raise _too_many_values_error(node, leaves, bounds)
    results = []
    for values in itertools.product(*(range(low, high + 1) for low, high in bounds)):
        known = dict(zip(leaves, values, strict=True))
        values_at_point = [_value(root, known) for root in roots]
        results.append(values_at_point[0] if len(values_at_point) == 1 else _count(*values_at_point))
    if len(leaves) == 1 and not isinstance(results[0], bool):
        form = _closed_form(numpy.array(results, numpy.int64), bounds[0][0])
        if form is not None:
            return graph.call_function(scaled, (leaves[0], *form))
    if len(results) > _MAX_TABLE:
        raise _too_many_values_error(node, leaves, bounds)
    terms = [(leaf, low, size) for leaf, (low, _), size in zip(leaves, bounds, sizes, strict=True)]
    return graph.call_function(lookup, (tuple(results), *terms))


def _closed_form(values: numpy.ndarray, low: int) -> tuple[int, int, int] | None:
    """(a, b, c) with (a * x + b) // c equal to the values for x from `low` on; None if no small c gives that."""
    x = numpy.arange(low, low + len(values), dtype=numpy.int64)
    slope = (int(values[-1]) - int(values[0])) / max(len(values) - 1, 1)
    for divisor in _DIVISORS:
        for factor in sorted({math.floor(slope * divisor) + shift for shift in (-1, 0, 1, 2)}):
            remainder = divisor * values - factor * x
            least = int(remainder.max())
            if least <= int(remainder.min()) + divisor - 1:
                return factor, least, divisor
    return None


def _leaves(node: Node, expand: bool = False) -> list[Node]:
    """The integers that a float is computed from."""
    if not expand and not _is_float(node):
        return [node]
    return [leaf for operand in node.all_input_nodes for leaf in _leaves(operand)]


def _value(expression: Any, known: dict[Node, int]) -> Any:
    """A value, computed in Python for known extents."""
    if not isinstance(expression, Node):
        return expression
    if expression in known:
        return known[expression]
    args, kwargs = torch.fx.node.map_arg((expression.args, expression.kwargs), lambda node: _value(node, known))
    return expression.target(*args, **kwargs)  # type: ignore[operator]


def _bounds(leaf: Node, ranges: Any, node: Node) -> tuple[int, int]:
    value = leaf.meta.get("val")
    bounds = bound_sympy(value.node.expr, dict(ranges)) if isinstance(value, torch.SymInt) else None
    if bounds is None or not (bounds.lower.is_Integer and bounds.upper.is_Integer):
        raise UnsupportedOpError(
            f"{leaf.name} has no bounds, and an integer is computed from it through floats ({model_line(node)})"
        )
    return int(bounds.lower), int(bounds.upper)


def _too_many_values_error(node: Node, leaves: Sequence[Node], bounds: Sequence[tuple[int, int]]) -> UnsupportedOpError:
    spans = ", ".join(f"{leaf.name} from {low} to {high}" for leaf, (low, high) in zip(leaves, bounds, strict=True))
    return UnsupportedOpError(
        f"an integer is computed through floats from {spans}, too many values for an engine ({model_line(node)});"
        " compute it with integers, such as h * 3 // 2, or narrow the ranges"
    )


def _is_scalar(node: Any, types: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and isinstance(node.meta.get("val"), types)


def _is_float(node: Any) -> bool:
    return isinstance(node, float) or (
        isinstance(node, Node) and isinstance(node.meta.get("val"), (torch.SymFloat, float))
    )
