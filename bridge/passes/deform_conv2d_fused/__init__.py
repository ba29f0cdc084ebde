"""Deformable convolutions with the mask's sigmoid before them, and BatchNorm and ReLU after them, as one
bridge::deform_conv2d_fused.

Offsets and the logits of the mask must be the channels of one tensor, in that order, which is proved channel by
channel. Where the mask is anything but their sigmoid, the convolution stays. One without a mask is replaced where
something follows that the op takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge.core import foreign
from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import mutated_nodes, nodes_between, value
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.deform_conv2d_fused.batch_norm import is_foldable
from bridge.passes.deform_conv2d_fused.channels import Channels, channels_of, extent_of_channels
from bridge.passes.deform_conv2d_fused.following import Following, find_following

NAME = "deform_conv2d_fused"
_PLAIN = OPS["deform_conv2d"]
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Declined(Exception):
    """Why a deformable convolution is not replaced."""


@dataclass(frozen=True)
class Convolution:
    """A call of bridge::deform_conv2d, or of an operator whose place it takes."""

    node: Node
    x: Node
    offset: Node
    weight: Node
    bias: Node | None
    mask: Node | None
    attributes: dict[str, Any]


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces deformable convolutions in a graph, in place."""
    mutated, editor = mutated_nodes(graph), Editor(graph)
    plain = {target for target, op in foreign.targets().items() if op is _PLAIN}
    found = [node for node in graph.nodes if node.op == "call_function" and node.target in plain]
    return rewrite_each(
        found, lambda node: _rewrite(node, editor, constants, mutated), (Declined, LayoutError), NAME, editor
    )


def _rewrite(node: Node, editor: Editor, constants: Constants, mutated: set[Node]) -> str | None:
    found = _read(node)
    if found is None:
        return None
    prediction = _find_prediction(found, mutated)
    following = find_following(node, lambda norm: is_foldable(norm, found.weight, found.bias, constants, mutated))
    if found.mask is None and not following.nodes and node not in mutated:
        return None
    if mutated & ({found.x, *following.nodes, node} | _nodes_of_prediction(found, prediction)):
        raise Declined(MUTATED)
    return _replace(found, prediction, following, editor)


def _read(node: Node) -> Convolution | None:
    if foreign.reason_against(node) is not None:  # the conversion says so
        return None
    _, (x, offset, weight, bias, mask), attributes = foreign.bind(node.target, node.args, node.kwargs)
    tensor = value(x)
    is_known = tensor is not None and tensor.dtype in _DTYPES
    return Convolution(node, x, offset, weight, bias, mask, attributes) if is_known else None


def _find_prediction(found: Convolution, mutated: set[Node]) -> Node:
    """The tensor whose channels are the offsets and, where there is a mask, its logits."""
    if found.mask is None:
        return found.offset
    offsets, mask = channels_of(found.offset), channels_of(found.mask)
    sources = [channels.source for channels in (*offsets, *mask)]
    if mutated & {found.offset, found.mask, *sources}:
        raise Declined(MUTATED)
    if not all(channels.has_sigmoid for channels in mask):
        raise Declined("its mask is not the sigmoid of a tensor's channels")
    if len(set(sources)) > 1:
        raise Declined("offsets and mask are not the channels of one tensor")
    count, taps = extent_of_channels(found.offset), extent_of_channels(found.mask)
    whole = (Channels(sources[0], 0, count), Channels(sources[0], count, count + taps, has_sigmoid=True))
    if (*offsets, *mask) != whole or extent_of_channels(sources[0]) != count + taps:
        raise Declined(
            f"offsets and mask are channels {_text(offsets)} and {_text(mask)} of a tensor with "
            f"{extent_of_channels(sources[0])}, expected 0:{count} and {count}:{count + taps}, which are all of them"
        )
    return sources[0]


def _text(parts: Sequence[Channels]) -> str:
    return ", ".join(f"{part.start}:{part.stop}" + " with sigmoid" * part.has_sigmoid for part in parts)


def _nodes_of_prediction(found: Convolution, prediction: Node) -> set[Node]:
    ends = [node for node in (found.offset, found.mask) if node is not None]
    return {prediction}.union(*(nodes_between(end, (prediction,)) for end in ends))


def _replace(found: Convolution, prediction: Node, following: Following, editor: Editor) -> str:
    weight, bias = found.weight, found.bias
    if following.norm is not None:
        weight, bias = following.norm.fold(weight, bias, editor)
    attributes = {
        **found.attributes,
        "modulated": found.mask is not None,
        "activation": following.activation,
        "negative_slope": following.negative_slope,
    }
    end = following.nodes[-1] if following.nodes else found.node
    result = editor.call(OPS[NAME].overload, (found.x, prediction, weight, bias), end, attributes)
    editor.replace(end, result)
    parts = ["modulated" if found.mask is not None else "not modulated"]
    parts += ["BatchNorm folded"] if following.norm is not None else []
    return f"bridge.deform_conv2d_fused, {', '.join(parts)}, activation {following.activation}"


PASS = Pass(NAME, apply)
