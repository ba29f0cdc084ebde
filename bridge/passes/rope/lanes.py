"""Lanes: elements of a tensor's last axes, and their indices.

A lane is a node and an index into its last axes; the axes before those, of any extent, are left where they are.
Complex tensors count as real ones with one axis more, of extent 2.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.fx import Node

from bridge.passes.common.nodes import value

Index = tuple[int, ...]


class Lane(NamedTuple):
    """One element of the last axes of a node's tensor."""

    node: Node
    at: Index


def shape(node: Node) -> tuple[Any, ...]:
    """The extents of a node's tensor, and 2 for the parts of complex numbers."""
    tensor = value(node)
    assert tensor is not None, node
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)


def outer(lane: Lane) -> tuple[Any, ...]:
    """The extents before the axes of a lane."""
    extents = shape(lane.node)
    return extents[: len(extents) - len(lane.at)]


def flat(lane: Lane) -> int:
    """The place of a lane among those of its node, in the order of memory."""
    return ravel(lane.at, tail(lane.node, len(lane.at)))


def operand(lane: Lane, argument: Node) -> Lane:
    """The lane of an argument that an element-wise operator takes for a lane of its result."""
    extents = shape(argument)
    count = min(len(lane.at), len(extents))
    last = zip(extents[len(extents) - count :], lane.at[len(lane.at) - count :], strict=True)
    return Lane(argument, tuple(0 if extent == 1 else place for extent, place in last))


def tail(node: Node, count: int) -> tuple[Any, ...]:
    """The last extents of a node."""
    extents = shape(node)
    return extents[len(extents) - count :]


def ravel(index: Index, extents: Sequence[Any]) -> int:
    """The place of an index in the order of memory."""
    place = 0
    for each, extent in zip(index, extents, strict=True):
        place = place * extent + each
    return place


def unravel(place: int, extents: Sequence[int]) -> Index:
    """The index of a place in the order of memory."""
    index = []
    for extent in reversed(extents):
        place, each = divmod(place, extent)
        index.append(each)
    return tuple(reversed(index))


def axis_of(node: Node, index: Index, dim: int, rank: int) -> int:
    """The place in a lane's index of a dimension of the node's tensor; negative before the lane's axes."""
    return dim % rank - (len(shape(node)) - len(index))


def moved_to(index: Index, axis: int, place: int) -> Index:
    """The index with another place on one axis."""
    return (*index[:axis], place, *index[axis + 1 :])
