"""Lanes: elements along the last axes of a tensor.

A lane is a node and an index into its last axes. The axes before them may have any extent. A complex tensor counts as a
real tensor with one more axis, of extent 2.
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
    """The extents of a node's tensor, with a final 2 for a complex one."""
    tensor = value(node)
    assert tensor is not None, node
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)


def outer(lane: Lane) -> tuple[Any, ...]:
    """The extents before the axes of a lane."""
    extents = shape(lane.node)
    return extents[: len(extents) - len(lane.at)]


def flat_index(lane: Lane) -> int:
    """The row-major index of a lane among those of its node."""
    return ravel(lane.at, tail(lane.node, len(lane.at)))


def operand(lane: Lane, argument: Node) -> Lane:
    """The lane of an argument that an element-wise operator reads for a lane of its result."""
    extents = shape(argument)
    count = min(len(lane.at), len(extents))
    last = zip(extents[len(extents) - count :], lane.at[len(lane.at) - count :], strict=True)
    return Lane(argument, tuple(0 if extent == 1 else position for extent, position in last))


def tail(node: Node, count: int) -> tuple[Any, ...]:
    """The last extents of a node."""
    extents = shape(node)
    return extents[len(extents) - count :]


def ravel(index: Index, extents: Sequence[Any]) -> int:
    """The row-major position of an index."""
    position = 0
    for coordinate, extent in zip(index, extents, strict=True):
        position = position * extent + coordinate
    return position


def unravel(position: int, extents: Sequence[int]) -> Index:
    """The index at a row-major position."""
    index = []
    for extent in reversed(extents):
        position, coordinate = divmod(position, extent)
        index.append(coordinate)
    return tuple(reversed(index))


def axis_of(node: Node, index: Index, dim: int, rank: int) -> int:
    """The axis of a lane's index for a dimension of the tensor; negative for dimensions before the lane's axes."""
    return dim % rank - (len(shape(node)) - len(index))


def with_coordinate(index: Index, axis: int, position: int) -> Index:
    """The index with another position along one axis."""
    return (*index[:axis], position, *index[axis + 1 :])
