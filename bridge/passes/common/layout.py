"""Strides: the result of bridge's op may have other strides than the tensor that it replaces.

An element-wise operator keeps the strides of its input; bridge's ops return contiguous tensors. Shapes downstream are
the same, but a `view` that torch.export accepted may be impossible. Operators that read memory by strides would read
other elements.
"""

import functools
from collections.abc import Callable, Iterable, Set
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.passes.common.nodes import extents_text

aten = torch.ops.aten
VIEWS = {aten.view.default, aten._unsafe_view.default}
# Operators whose result depends on the strides of an argument, not on its elements alone.
_BY_STRIDES = {
    aten.as_strided.default,
    aten.as_strided_.default,
    aten.as_strided_copy.default,
    aten.as_strided_scatter.default,
    aten.view.dtype,
    aten.view_copy.dtype,
    aten.view_as_complex.default,
    aten.view_as_complex_copy.default,
    aten.sym_stride.default,
    aten.sym_stride.int,
    aten.stride.int,
    aten.sym_storage_offset.default,
}


class LayoutError(Exception):
    """Why a match cannot be replaced: something depends on its strides, and a copy cannot have them."""


def strides_of(node: Node) -> tuple[Any, ...]:
    """The traced strides of a node's tensor; 0 along extents of 1, whose stride is arbitrary."""
    tensor = node.meta["val"]
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return tuple(0 if isinstance(extent, int) and extent == 1 else stride for stride, extent in pairs)


def same_strides(a: Node, b: Node) -> bool:
    """Whether two nodes' tensors of one shape have the same strides for all extents."""
    return all(statically_known_true(x == y) for x, y in zip(strides_of(a), strides_of(b), strict=True))


class StrideUses:
    """Which nodes of a graph depend on strides. Linear in the graph, however many nodes are replaced.

    mutated: see nodes.mutated_nodes.
    """

    def __init__(self, graph: Graph, mutated: Set[Node]) -> None:
        depending = [node for node in graph.nodes if node.target in _BY_STRIDES or _is_mutated_view(node, mutated)]
        self._sensitive = _closure(depending, lambda node: node.all_input_nodes)
        self._free: set[Node] = set()

    def needs_strides(self, root: Node) -> bool:
        """Whether something downstream of a node depends on its strides."""
        return root in self._sensitive

    def allow_other_strides(self, root: Node) -> None:
        """Turns every view downstream of a node into a reshape, which copies where it must."""
        for node in _closure([root], lambda each: each.users, self._free):
            if node.target in VIEWS:
                node.target = aten.reshape.default


def _is_mutated_view(node: Node, mutated: Set[Node]) -> bool:
    """Whether a write through a view would be lost if the view were a copy."""
    return node.target in VIEWS and node in mutated


def _closure(
    starts: Iterable[Node], following: Callable[[Node], Iterable[Node]], seen: set[Node] | None = None
) -> set[Node]:
    """The transitive closure of nodes under `following`, without those in `seen`, which it extends."""
    seen = set() if seen is None else seen
    reached = {node for node in starts if node not in seen}
    pending = list(reached)
    while pending:
        new = [node for node in following(pending.pop()) if node not in seen and node not in reached]
        reached.update(new)
        pending += new
    seen |= reached
    return reached


def memory_order(node: Node) -> list[int]:
    """The dimensions of a node's tensor from the largest stride to the smallest.

    LayoutError: which is larger depends on the extents.
    """
    strides = strides_of(node)

    def compare(a: int, b: int) -> int:
        if a == b or statically_known_true(strides[a] == strides[b]):
            return a - b
        for first, second, result in ((a, b, -1), (b, a, 1)):
            if statically_known_true(strides[first] > strides[second]):
                return result
        raise LayoutError(f"the order of its strides {extents_text(strides)} depends on the extents")

    return sorted(range(len(strides)), key=functools.cmp_to_key(compare))
