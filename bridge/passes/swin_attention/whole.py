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
    """norms: of each token before its projection, from first to last. before: the projections to q, k and v, one or
    three."""

    norms: tuple[Node, ...]
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
    windows, norms = _without_norms(inputs[0])
    partition = find_partition(windows, packing.lead)
    reverse = None if partition is None else find_reverse(result, partition)
    return None if partition is None or reverse is None else Whole(norms, layers, partition, reverse)


def _without_norms(node: Any) -> tuple[Any, tuple[Node, ...]]:
    """What is normalised along channels alone, and by what."""
    norms: list[Node] = []
    while isinstance(node, Node) and node.target is aten.layer_norm.default and len(node.args[1]) == 1:  # type: ignore[arg-type]
        norms.insert(0, node)
        node = node.args[0]
    return node, tuple(norms)
