"""Integers computed from extents by way of floats, such as int(h * 1.5), and sequences of a dynamic length.

An engine's floats are not Python's, so such a number is computed here for every value that the extents may have, with
the model's own operations. It becomes (a * extent + b) // c where that gives the same for all of them, else a table.
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

_MOST_VALUES = 2**20  # for which a number is computed
_LARGEST_TABLE = 2**16
_DIVISORS = range(1, 101)
_ARANGES = (torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step)


def scaled(extent: int, factor: int, offset: int, divisor: int) -> int:
    """(factor * extent + offset) // divisor."""
    return (factor * extent + offset) // divisor


def lookup(table: Sequence[Any], *places: tuple[Any, int, int]) -> Any:
    """The value for extents in a table with one row after the other. places: extent, least value and count of each."""
    index = 0
    for extent, low, count in places:
        index = index * count + extent - low
    return table[index]


def steps(start: int, end: int, step: int) -> int:
    """How many elements torch.arange has."""
    return -((start - end) // step)


def ramp(count: int, start: Any, step: Any, dtype: torch.dtype) -> torch.Tensor:
    """start, start + step, ...: `count` of them."""
    return (start + step * torch.arange(count)).to(dtype)


def make_integer(module: GraphModule, ranges: Any) -> None:
    """Rewrites a lowered graph: no integer or condition is computed from floats, and every dynamic arange is a `ramp`.

    ranges: of the symbols, as an exported program has them.
    UnsupportedOpError: a number has more values than a table holds, and is no (a * extent + b) // c.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in _ARANGES and any(isinstance(argument, Node) for argument in node.args):
            _replace_arange(node, ranges)
        elif _is_number(node, (torch.SymInt, torch.SymBool)) and any(map(_is_float, node.all_input_nodes)):
            with graph.inserting_before(node):
                found = _tabulate(node, node, ranges)
            found.meta = dict(node.meta)
            node.replace_all_uses_with(found)
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
        found = node.graph.call_function(ramp, (count, start, step, dtype))
    found.meta = dict(node.meta)
    node.replace_all_uses_with(found)


def _count(start: Any, end: Any, step: Any) -> int:
    return max(math.ceil((end - start) / step), 0)


def _tabulate(node: Node, wanted: Any, ranges: Any) -> Node:
    """A node of the integer or condition `wanted`: a node of floats, or the start, end and step of an arange."""
    roots = wanted if isinstance(wanted, tuple) else (wanted,)
    leaves = list(
        dict.fromkeys(leaf for root in roots if isinstance(root, Node) for leaf in _leaves(root, root is wanted))
    )
    bounds = [_bounds(leaf, ranges, node) for leaf in leaves]
    sizes = [high - low + 1 for low, high in bounds]
    graph = node.graph
    if math.prod(sizes) > _MOST_VALUES:
        raise _refusal(node, leaves, bounds)
    results = []
    for values in itertools.product(*(range(low, high + 1) for low, high in bounds)):
        known = dict(zip(leaves, values, strict=True))
        found = [_value(root, known) for root in roots]
        results.append(found[0] if len(found) == 1 else _count(*found))
    if len(leaves) == 1 and not isinstance(results[0], bool):
        form = _closed_form(numpy.array(results, numpy.int64), bounds[0][0])
        if form is not None:
            return graph.call_function(scaled, (leaves[0], *form))
    if len(results) > _LARGEST_TABLE:
        raise _refusal(node, leaves, bounds)
    places = [(leaf, low, size) for leaf, (low, _), size in zip(leaves, bounds, sizes, strict=True)]
    return graph.call_function(lookup, (tuple(results), *places))


def _closed_form(values: numpy.ndarray, low: int) -> tuple[int, int, int] | None:
    """(a, b, c) with (a * x + b) // c equal to the values for x from `low` on; None where no small c gives that."""
    x = numpy.arange(low, low + len(values), dtype=numpy.int64)
    slope = (int(values[-1]) - int(values[0])) / max(len(values) - 1, 1)
    for divisor in _DIVISORS:
        for factor in sorted({math.floor(slope * divisor) + shift for shift in (-1, 0, 1, 2)}):
            rest = divisor * values - factor * x
            least = int(rest.max())
            if least <= int(rest.min()) + divisor - 1:
                return factor, least, divisor
    return None


def _leaves(node: Node, inner: bool = False) -> list[Node]:
    """The integers that a number of floats is made of."""
    if not inner and not _is_float(node):
        return [node]
    return [leaf for source in node.all_input_nodes for leaf in _leaves(source)]


def _value(wanted: Any, known: dict[Node, int]) -> Any:
    """A number, computed by Python for extents that are known."""
    if not isinstance(wanted, Node):
        return wanted
    if wanted in known:
        return known[wanted]
    args, kwargs = torch.fx.node.map_arg((wanted.args, wanted.kwargs), lambda node: _value(node, known))
    return wanted.target(*args, **kwargs)  # type: ignore[operator]


def _bounds(leaf: Node, ranges: Any, node: Node) -> tuple[int, int]:
    value = leaf.meta.get("val")
    bounds = bound_sympy(value.node.expr, dict(ranges)) if isinstance(value, torch.SymInt) else None
    if bounds is None or not (bounds.lower.is_Integer and bounds.upper.is_Integer):
        raise UnsupportedOpError(
            f"{leaf.name} has no bounds, and a number follows from it by floats ({model_line(node)})"
        )
    return int(bounds.lower), int(bounds.upper)


def _refusal(node: Node, leaves: Sequence[Node], bounds: Sequence[tuple[int, int]]) -> UnsupportedOpError:
    spans = ", ".join(f"{leaf.name} from {low} to {high}" for leaf, (low, high) in zip(leaves, bounds, strict=True))
    return UnsupportedOpError(
        f"a number follows by way of floats from {spans}, too many values for an engine ({model_line(node)}); compute"
        " it with integers, such as h * 3 // 2, or narrow the ranges"
    )


def _is_number(node: Any, kinds: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and isinstance(node.meta.get("val"), kinds)


def _is_float(node: Any) -> bool:
    return isinstance(node, float) or (
        isinstance(node, Node) and isinstance(node.meta.get("val"), (torch.SymFloat, float))
    )
