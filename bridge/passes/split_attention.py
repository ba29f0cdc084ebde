"""Attention of each piece of a sequence, joined again, as one bridge::window_attention.

Vision encoders of Qwen's and others attend within windows, frames or images that lie in a row in one sequence: they
split queries, keys and values, call scaled_dot_product_attention for each piece, and join the results. An image has
hundreds of windows. Each token sees the keys of its own piece: an interval, the same for all layers of that split.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.axes import follow, name_axes, sources
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import (
    CUTS,
    arguments,
    aten,
    before_copies,
    canonical_nodes,
    erase_unused,
    mutated_nodes,
    nodes_between,
    same_extents,
    users_of,
)
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.window_attention.attention import Declined, check_widths, settings_of

NAME = "split_attention"
OP = "window_attention"
_SDPA = aten.scaled_dot_product_attention.default
_TOKENS = 2  # their dimension in [B, H, S, D]
# Orders of the joined dimensions, and where tokens are.
_ORDERS = {"bhtd": 2, "bthd": 1}
_SWAPPED = [0, 2, 1, 3]
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Split:
    """Attention of pieces. tensors: q, k and v of all. lengths: tokens of each piece. order: of the joined result."""

    tensors: tuple[Node, Node, Node]
    lengths: tuple[int, ...]
    order: str
    scale: float | None


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Joins attention of pieces in a graph, in place."""
    editor, canonical, mutated = Editor(graph), canonical_nodes(graph), mutated_nodes(graph)

    def rewrite(node: Node) -> str | None:
        found = _find(node, canonical) if node.target is aten.cat.default else None
        if found is None:
            return None
        tensors = [_tokens_first(tensor) or tensor for tensor in found.tensors]
        replaced = nodes_between(node, tensors)
        if mutated & replaced:
            raise Declined(MUTATED)
        _check(found)
        editor.replace(node, _joined(editor, node, found))
        erase_unused(replaced.difference(tensors))
        return f"bridge.{OP} of {len(found.lengths)} pieces of {_text(found.lengths)} tokens"

    return rewrite_each(graph.nodes, rewrite, (Declined, LayoutError), NAME, editor)


def _text(lengths: Sequence[int]) -> str:
    least, most = min(lengths), max(lengths)
    return f"{least}" if least == most else f"{least} to {most}"


def _find(cat: Node, canonical: Mapping[Node, Node]) -> _Split | None:
    """The attention of all pieces that a node joins, in their order; None for any other node."""
    given = arguments(cat)
    ends = given["tensors"]
    roots = [sources(end)[-1] for end in ends] if len(ends) > 1 else []
    if not roots or any(root.target is not _SDPA for root in roots):
        return None
    calls = [arguments(root) for root in roots]
    if not all(map(_is_plain, calls)) or len({call["scale"] for call in calls}) != 1:
        return None
    orders = {_order(end, given["dim"]) for end in ends}
    wholes = [_whole([call[name] for call in calls], canonical) for name in ("query", "key", "value")]
    found = [each for each in wholes if each is not None]
    order, *others = orders
    if order is None or others or len(found) != 3 or len({lengths for _, lengths in found}) != 1:
        return None
    (q, lengths), (k, _), (v, _) = found
    return _Split((q, k, v), lengths, order, calls[0]["scale"])


def _is_plain(call: Mapping[str, Any]) -> bool:
    settings = call["attn_mask"] is None and call["dropout_p"] == 0 and not call["is_causal"]
    return settings and not call.get("enable_gqa", False)


def _order(end: Node, dim: int) -> str | None:
    """The order of the dimensions of a piece, which is joined along tokens; None for others, and one used elsewhere."""
    *path, root = sources(end)
    shape = root.meta["val"].shape
    if len(shape) != 4 or any(len(users_of(node)) != 1 for node in (*path, root)):
        return None
    axes = name_axes("bhtd", dict(zip("bhtd", shape, strict=True)))
    moved = follow(axes, path[::-1])
    if moved is None or not moved.is_whole:
        return None
    groups = dict(zip("bhtd", axes.groups, strict=True))
    for order, tokens in _ORDERS.items():
        if len(moved.groups) == 4 and dim % 4 == tokens and list(moved.groups) == [groups[letter] for letter in order]:
            return order
    return None


def _whole(pieces: Sequence[Any], canonical: Mapping[Node, Node]) -> tuple[Node, tuple[int, ...]] | None:
    """What pieces are all pieces of, along tokens and in order, and their lengths; None for others."""
    items = [before_copies(piece) for piece in pieces]
    if any(not isinstance(item, Node) or item.target is not operator.getitem for item in items):
        return None
    splits = {canonical.get(item.args[0], item.args[0]) for item in items}
    split = next(iter(splits))
    if len(splits) != 1 or split.target not in CUTS or split.target is aten.unbind.int:
        return None
    given, parts = arguments(split), split.meta["val"]
    whole = given["self"]
    if whole.meta["val"].dim() != 4 or given["dim"] % 4 != _TOKENS:
        return None
    lengths = tuple(part.shape[_TOKENS] for part in parts)
    in_order = [item.args[1] for item in items] == list(range(len(parts)))
    return (whole, lengths) if in_order and all(isinstance(length, int) for length in lengths) else None


def _check(found: _Split) -> None:
    """Declined: bridge.window_attention does not take it."""
    q, k, v = (tensor.meta["val"] for tensor in found.tensors)
    check_widths(q, v)
    if not same_extents(q.shape, k.shape) or not same_extents(q.shape, v.shape):
        raise Declined(f"queries, keys and values have shapes {q.shape}, {k.shape} and {v.shape}; expected one")
    if len({q.dtype, k.dtype, v.dtype}) != 1 or q.dtype not in _DTYPES:
        raise Declined(f"it is computed in {q.dtype}, {k.dtype} and {v.dtype}; expected one of {_DTYPES}")


def _joined(editor: Editor, cat: Node, found: _Split) -> Node:
    """The attention of all pieces at once, with its dimensions in the order of what was joined."""
    unlimited = -1
    settings: dict[str, Any] = {**settings_of(unlimited, unlimited, found.scale)}
    settings["key_ranges"] = _ranges(editor, cat, found.lengths)
    before = [_tokens_first(tensor) for tensor in found.tensors]
    if all(before):
        tensors = tuple(_with_batch(editor, node, cat) for node in before)
        settings["layout"] = "bshd"
    else:
        tensors = found.tensors
    result = editor.call(OPS[OP].overload, tensors, cat, settings)
    if all(before) == (found.order == "bthd"):
        return result
    return editor.call(aten.permute.default, (result, _SWAPPED), cat)


def _tokens_first(tensor: Node) -> Node | None:
    """What queries, keys or values [B, H, S, D] are a view of with tokens before heads, [B, S, H, D] or [S, H, D]."""
    shape = dict(zip("bhtd", tensor.meta["val"].shape, strict=True))
    wanted = list(name_axes("bhtd", shape).groups)
    chain = sources(tensor)
    for index, base in enumerate(chain):
        for letters in ("bthd", "thd"):
            extents = [shape[letter] for letter in letters]
            if not same_extents(base.meta["val"].shape, extents) or (letters == "thd" and wanted[0]):
                continue
            moved = follow(name_axes(letters, shape), chain[:index][::-1])
            if moved is not None and moved.is_whole and list(moved.groups) == wanted:
                return base
    return None


def _with_batch(editor: Editor, node: Any, like: Node) -> Node:
    return node if node.meta["val"].dim() == 4 else editor.call_once(aten.unsqueeze.default, (node, 0), like)


def _ranges(editor: Editor, like: Node, lengths: Sequence[int]) -> Node:
    """[1, tokens, 2]: begin and end of each token's piece, once for all layers."""
    device, bounds = like.meta["val"].device, [sum(lengths[:count]) for count in range(len(lengths) + 1)]
    options = {"dtype": torch.int32, "device": device}
    sides = []
    for side in (bounds[:-1], bounds[1:]):
        parts = [
            editor.call_once(aten.full.default, ([length], bound), like, options)
            for length, bound in zip(lengths, side, strict=True)
        ]
        sides.append(editor.call_once(aten.cat.default, (parts,), like))
    return editor.call_once(aten.unsqueeze.default, (editor.call_once(aten.stack.default, (sides, -1), like), 0), like)


PASS = Pass(NAME, apply)
