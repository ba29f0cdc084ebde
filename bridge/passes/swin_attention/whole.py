"""The projections of tokens around an attention within windows, and the map that they come from and go to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.passes.common.axes import Axes, Group, follow, is_move, name_axes
from bridge.passes.common.nodes import aten
from bridge.passes.swin_attention.attention import Attention
from bridge.passes.swin_attention.packing import Packing
from bridge.passes.swin_attention.partition import Partition, Reverse, find_partition, find_reverse

_LINEAR = aten.linear.default


@dataclass(frozen=True)
class Whole:
    """before: the projections to q, k and v, one or three."""

    before: tuple[Node, ...]
    partition: Partition
    reverse: Reverse


def find_result(attention: Attention) -> Node | None:
    """The view of an attention's result as [..., T, H D], where nothing else uses that."""
    *lead, heads, tokens, _ = attention.axes.groups
    channels = _channels(attention.root.meta["val"].shape[-1])
    expected = Axes((*lead, tokens, (*heads, *channels)))
    axes: Axes | None = Axes((*lead, heads, tokens, channels))
    node = attention.root
    if axes is None or not axes.describes(node):
        return None
    while axes is not None:
        if axes.groups[-1] == expected.groups[-1] and axes.in_order == expected.in_order and axes.is_whole:
            return node
        if len(node.users) != 1:
            return None
        (node,) = node.users
        axes = follow(axes, [node]) if is_move(node) else None
    return None


def _channels(extent: Any) -> Group:
    return name_axes(["d"], {"d": extent}).groups[0]


def find_whole(packing: Packing, result: Node, canonical: Mapping[Node, Node]) -> Whole | None:
    """The projections and the map around an attention; None where one is missing."""
    layers = packing.tensors
    if any(layer.target is not _LINEAR for layer in layers):
        return None
    inputs: list[Any] = [layer.args[0] for layer in layers]
    if len({canonical.get(each, each) for each in inputs}) != 1:
        return None
    partition = find_partition(inputs[0], packing.lead)
    reverse = None if partition is None else find_reverse(result, partition)
    return None if partition is None or reverse is None else Whole(layers, partition, reverse)
