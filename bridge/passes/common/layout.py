"""Strides of what a pass puts in: they need not be those of what it replaces.

An element-wise operator hands on the strides of its input, and bridge's ops give contiguous tensors. The shapes that
follow are the same, but a `view` that torch.export found possible may not be so any more, and what reads memory by its
strides would find other elements there.
"""

import functools
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten = torch.ops.aten
VIEWS = {aten.view.default, aten._unsafe_view.default}
# What depends on the strides of its argument, and not on its elements alone.
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
    """Why what was found cannot be replaced: something depends on its strides, which cannot be had otherwise."""


def strides_of(node: Node) -> tuple[Any, ...]:
    """The strides of a node's tensor, as traced, but for those of extents of 1, which say nothing."""
    tensor = node.meta["val"]
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return tuple(0 if isinstance(extent, int) and extent == 1 else stride for stride, extent in pairs)


def lie_alike(a: Node, b: Node) -> bool:
    """Whether two nodes' tensors of one shape have the same strides, whatever the extents are."""
    return all(statically_known_true(x == y) for x, y in zip(strides_of(a), strides_of(b), strict=True))


class Followers:
    """What of a graph is computed from what a pass replaces; each node is looked at once, however much is replaced.

    written: see graph.written.
    """

    def __init__(self, graph: Graph, written: Set[Node]) -> None:
        depending = [node for node in graph.nodes if node.target in _BY_STRIDES or _is_written_view(node, written)]
        self._sensitive = _closure(depending, lambda node: node.all_input_nodes)
        self._free: set[Node] = set()

    def depend_on_strides(self, root: Node) -> bool:
        """Whether something computed from a node needs its strides to be as they are."""
        return root in self._sensitive

    def allow_other_strides(self, root: Node) -> None:
        """Makes every view of what is computed from a node one that copies where it must."""
        for node in _closure([root], lambda each: each.users, self._free):
            if node.target in VIEWS:
                node.target = aten.reshape.default


def _is_written_view(node: Node, written: Set[Node]) -> bool:
    """Whether a copy in a view's place would not be what is written to."""
    return node.target in VIEWS and node in written


def _closure(
    starts: Iterable[Node], following: Callable[[Node], Iterable[Node]], seen: set[Node] | None = None
) -> set[Node]:
    """Nodes and all that follow them, but for those `seen` before, to which they are added."""
    seen = set() if seen is None else seen
    found = {node for node in starts if node not in seen}
    pending = list(found)
    while pending:
        new = [node for node in following(pending.pop()) if node not in seen and node not in found]
        found.update(new)
        pending += new
    seen |= found
    return found


def order_of(node: Node) -> list[int]:
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
        raise LayoutError(f"the order of its strides {_spell(strides)} depends on the extents")

    return sorted(range(len(strides)), key=functools.cmp_to_key(compare))


def _spell(extents: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, extents))}]"
