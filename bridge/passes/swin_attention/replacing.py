"""Puts bridge.swin_attention in the place of attention within windows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bridge.core.op import OPS
from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import aten, extents_text, same_extents
from bridge.passes.swin_attention.attention import Attention, Declined
from bridge.passes.swin_attention.packing import Packing
from bridge.passes.swin_attention.shift_masks import MaskValues, shift_mask
from bridge.passes.swin_attention.strided import Strided
from bridge.passes.swin_attention.whole import Whole

NAME = "swin_attention"


@dataclass(frozen=True)
class Tables:
    """What is added to logits: tensors that are viewed as [H, T, T], and as [M, T, T]."""

    biases: tuple[Node, ...]
    masks: tuple[Node, ...]


def put_windows(editor: Editor, attention: Attention, packing: Packing, tables: Tables, result: Node | None) -> str:
    """Replaces an attention alone: the op takes the windows. Returns what it was replaced by."""
    root = attention.root
    tensors = [_reshape(editor, each, [-1, attention.tokens, each.meta["val"].shape[-1]]) for each in packing.tensors]
    call = _call(editor, attention, packing, tensors, tables, {})
    if result is not None:
        editor.replace(result, _like(editor, call, result, packing.tensors[0]))
    else:
        shape = [*editor.extents(attention.q, root.meta["val"].dim() - 3), attention.tokens, attention.heads, -1]
        split = editor.call(aten.reshape.default, (call, shape), root)
        editor.replace(root, editor.call(aten.transpose.int, (split, -2, -3), root))
    return _text(attention, {}, bool(tables.masks))


def put_map(
    editor: Editor, attention: Attention, packing: Packing, tables: Tables, whole: Whole, values: MaskValues
) -> str:
    """Replaces an attention with all between two maps: the op takes the projected map."""
    partition = whole.partition
    settings: dict[str, Any] = {"window": partition.window}
    if partition.grid:
        settings["grid"] = True
    if any(partition.shift):
        settings["shift"] = partition.shift
        number = _number(tables, whole, values)
        settings["shift_mask"] = 0.0 if number is None else number
        tables = tables if number is None else Tables(tables.biases, ())
    tokens = partition.map
    for norm in whole.norms:
        tokens = editor.call(aten.layer_norm.default, (tokens, *norm.args[1:]), norm, norm.kwargs)
    layers = [editor.call(aten.linear.default, (tokens, *layer.args[1:]), layer) for layer in whole.before]
    node = _call(editor, attention, packing, layers, tables, settings)
    for layer in whole.reverse.layers:
        node = editor.call(aten.linear.default, (node, *layer.args[1:]), layer)
    editor.replace(whole.reverse.map, node)
    return _text(attention, settings, bool(tables.masks))


def put_strided(editor: Editor, attention: Attention, strided: Strided) -> str:
    """Replaces an attention within strided windows: the op takes the sequence as a map of T x W tokens."""
    base, settings = strided.base, {"heads": strided.heads, "window": (strided.tokens, 1)}
    optional: dict[str, Any] = {"head_major": True} if strided.head_major else {}
    if attention.scale is not None:
        optional["scale"] = attention.scale
    (count,) = editor.extents(base, 1)
    shape = [count, strided.tokens, strided.windows, base.meta["val"].shape[-1]]
    tokens = editor.call(aten.reshape.default, (base, shape), base)
    node = editor.call(OPS[NAME].overload, (tokens,), attention.root, optional | settings)
    editor.replace(strided.result, editor.call(aten.flatten.using_ints, (node, 1, 2), strided.result))
    return f"bridge.{NAME}, heads={strided.heads}, window={strided.tokens}x1"


def _number(tables: Tables, whole: Whole, values: MaskValues) -> float | None:
    """What the shift's mask adds, where the masks are that; None for others."""
    masks = [values.value(mask) for mask in tables.masks]
    known = [mask for mask in masks if isinstance(mask, Tensor)]
    if not masks or len(known) < len(masks):
        return None
    size = whole.partition.map.meta["val"].shape[1:3]
    return shift_mask(known, size, whole.partition.window, whole.partition.shift)


def _call(
    editor: Editor,
    attention: Attention,
    packing: Packing,
    tensors: list[Node],
    tables: Tables,
    settings: dict[str, Any],
) -> Node:
    heads, tokens = attention.heads, attention.tokens
    optional: dict[str, Any] = {}
    if tables.biases:
        optional["bias"] = _sum(editor, attention, tables.biases, [heads, tokens, tokens])
    if tables.masks:
        optional["mask"] = _sum(editor, attention, tables.masks, [-1, tokens, tokens])
    if attention.factors is not None:
        optional["logit_scale"] = _table(editor, attention, attention.factors.node, [heads])
    elif attention.scale is not None:
        optional["scale"] = attention.scale
    if packing.head_major:
        optional["head_major"] = True
    attributes = {"heads": heads} | settings
    return editor.call(OPS[NAME].overload, tuple(tensors), attention.root, optional | attributes)


def _sum(editor: Editor, attention: Attention, nodes: tuple[Node, ...], shape: list[int]) -> Node:
    total, *others = (_table(editor, attention, node, shape) for node in nodes)
    for other in others:
        total = editor.call_once(aten.add.Tensor, (total, other), total)
    return total


def _table(editor: Editor, attention: Attention, node: Node, shape: list[int]) -> Node:
    """A tensor of that shape, in the dtype of q or in float32."""
    dtype = node.meta["val"].dtype
    if dtype not in (attention.q.meta["val"].dtype, torch.float32):
        node = editor.cast(node, torch.float32)
    return _reshape(editor, node, shape)


def _reshape(editor: Editor, node: Node, shape: list[int]) -> Node:
    tensor = node.meta["val"]
    known = [extent if want == -1 else want for want, extent in zip(shape, tensor.shape, strict=False)]
    if tensor.dim() == len(shape) and same_extents(known, tensor.shape):
        return node
    return editor.call_once(aten.reshape.default, (node, shape), node)


def _like(editor: Editor, node: Node, like: Node, base: Node) -> Node:
    """The tensor in the shape of another, which may be that of a base but for channels. Declined: it is not known."""
    shape, channels = list(like.meta["val"].shape), node.meta["val"].shape[-1]
    if len(shape) == node.meta["val"].dim():
        return node
    if same_extents(shape[:-1], base.meta["val"].shape[:-1]):
        return editor.call(aten.reshape.default, (node, [*editor.extents(base, len(shape) - 1), channels]), like)
    unknown = [place for place, extent in enumerate(shape) if not isinstance(extent, int)]
    if len(unknown) > 1:
        raise Declined(f"its result has shape {extents_text(shape)}, whose extents are not those of its queries")
    shape = [-1 if place in unknown else extent for place, extent in enumerate(shape)]
    return editor.call(aten.reshape.default, (node, shape), like)


def _text(attention: Attention, settings: dict[str, Any], has_mask: bool) -> str:
    pairs = {name: "x".join(map(str, settings[name])) for name in ("window", "shift") if name in settings}
    parts = [f"{name}={value}" for name, value in ({"heads": attention.heads} | pairs).items()]
    parts += ["grid=True"] if settings.get("grid") else []
    parts += ["of cosines"] if attention.factors is not None else []
    parts += ["with mask"] if has_mask else []
    return ", ".join([f"bridge.{NAME}", *parts])
