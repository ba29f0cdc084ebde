"""Attention with a mask that shows a sliding window, as bridge::window_attention.

Models make their masks with index arithmetic, a boolean or a sum of 0 and a very negative number for each query and
key. formulas.py and operators.py read the mask as a function of its indices, for all lengths at once, and band.py
proves that it shows the keys from `left` before a query to `right` after it. attention.py finds the attention around
it. The dense mask then has no user left, and vanishes.

A mask that hides later keys alone, or none, becomes scaled_dot_product_attention's own `is_causal`, which TensorRT has.
Attention that is written out stays TensorRT's then, unless it has a soft-cap or sinks, which TensorRT's has not.
"""

import contextlib
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import aten, mutated_nodes, nodes_between, same_extents, value
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.window_attention.attention import Attention, Declined, settings_of, settings_text
from bridge.passes.window_attention.band import UNLIMITED, NoWindow, Window, compares_positions, window_of
from bridge.passes.window_attention.find import SDPA, find_attention
from bridge.passes.window_attention.flex import FLEX, check_blocks
from bridge.passes.window_attention.formulas import Unread, axis, is_one
from bridge.passes.window_attention.interval import Interval, interval_of
from bridge.passes.window_attention.key_ranges import key_ranges
from bridge.passes.window_attention.masking import gives_zeros, visible
from bridge.passes.window_attention.operators import RULES
from bridge.passes.window_attention.reader import Reader
from bridge.passes.window_attention.widths import call_of_one_width

NAME = "window_attention"


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces attention with a sliding window in a graph, in place."""
    mutated = mutated_nodes(graph)
    reader = Reader(RULES, constants, mutated)
    editor = Editor(graph)
    return rewrite_each(
        graph.nodes,
        lambda node: _rewrite(editor, node, reader, constants, mutated),
        (Declined, NoWindow, LayoutError),
        NAME,
        editor,
    )


def _rewrite(editor: Editor, node: Node, reader: Reader, constants: Constants, mutated: set[Node]) -> str | None:
    """The text of what replaces an attention; None for other nodes, and where TensorRT's own attention remains.

    Declined, NoWindow, LayoutError: it has something like a window, and is not replaced.
    """
    attention = find_attention(node, constants)
    interval = None if attention is None else _interval(reader, attention)
    if attention is None or interval is None:
        return None
    window, fused = interval.window, attention.fused
    bounded = bool(interval.begins or interval.ends)
    needs_op = bounded or window.hides_earlier(_largest(attention.logits[3])) or attention.is_capped_or_has_sinks
    if not needs_op and (fused is None or fused.target not in (SDPA, FLEX)):
        return None
    inside = nodes_between(attention.root, (attention.q, attention.k, attention.v))
    if reader.changed or mutated & inside:
        raise Declined(MUTATED)
    if fused is not None and fused.target is FLEX:
        check_blocks(fused, window, constants)
    if needs_op:
        description = _with_op(editor, attention, interval, reader)
    else:
        description = _without_mask(editor, attention, window)
    erase(editor.graph, attention, inside)
    return description


def _interval(reader: Reader, attention: Attention) -> Interval | None:
    """What the masks of an attention show; None where they compare no positions, or only hide later keys and others.

    With sinks, which TensorRT's attention has not, an interval of any bounds counts. NoWindow: they show no interval.
    """
    try:
        condition = visible(reader, attention)
    except Unread:  # a bias
        return None
    try:
        return Interval(window_of(condition, attention.logits), (), (), True)
    except NoWindow:
        with_sinks = attention.sinks is not None
        if not with_sinks and not compares_positions(condition, attention.logits):
            return None
        interval = interval_of(condition, attention.logits)
        if interval is None or not (with_sinks or interval.begins or interval.window.left != UNLIMITED):
            raise
    if not interval.shows_own and not gives_zeros(attention):
        raise NoWindow("its mask may hide all keys of a query, for which the model gives the mean of their values")
    return interval


def _with_op(editor: Editor, attention: Attention, interval: Interval, reader: Reader) -> str:
    """Replaces an attention by bridge.window_attention."""
    attention.check()
    optional = {}
    if attention.sinks is not None:
        optional["sinks"] = _sinks(reader, attention, attention.sinks)
    if interval.begins or interval.ends:
        optional["key_ranges"] = key_ranges(editor, attention, interval, reader.unknown)
    settings = settings_of(interval.window.left, interval.window.right, attention.scale, attention.softcap)
    tensors = (attention.q, attention.k, attention.v)
    call = call_of_one_width(editor, OPS[NAME].overload, tensors, attention.root, optional | settings)
    editor.replace(attention.root, call)
    return f"bridge.{NAME}, {settings_text(settings)}" + "".join(f", with {name}" for name in optional)


def _without_mask(editor: Editor, attention: Attention, window: Window) -> str:
    """Drops a mask that hides later keys alone, or no key."""
    assert attention.fused is not None
    causal = window.right == 0 and not is_one(attention.logits[2])
    if causal and not same_extents(attention.logits[2:3], attention.logits[3:]):
        raise Declined("its mask is causal for queries at the end of more keys, as TensorRT's own is not")
    tensors = attention.fused.args[:3]
    shared = not same_extents(*(each.meta["val"].shape[1:2] for each in tensors[:2]))  # type: ignore[union-attr]
    kwargs: dict[str, float] = {"enable_gqa": True} if shared else {}
    if attention.scale is not None:
        kwargs["scale"] = attention.scale
    editor.replace(attention.root, editor.call(SDPA, (*tensors, None, 0.0, causal), attention.root, kwargs))
    return f"scaled_dot_product_attention, is_causal={causal}, without its mask"


def erase(graph: Graph, attention: Attention, inside: set[Node]) -> None:
    """Erases what draws random numbers in training, which is never dead code for torch, and would keep the mask."""
    for node in inside:
        if node.target is aten.dropout.default:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph.erase_node(node)
    if attention.fused is not None:
        for node in (*attention.fused.users, attention.fused):
            if not node.users:
                graph.erase_node(node)


def _sinks(reader: Reader, attention: Attention, last: Node) -> Node:
    """The logits of the heads, [H], that are each query's last logit."""
    node: Any = last
    while isinstance(node, Node) and value(node) is not None and node.meta["val"].dim() > 1:
        node = node.args[0] if node.args else None
    shape = (*attention.logits[:3], 1)
    dtypes = (torch.float32, attention.q.meta["val"].dtype)
    if isinstance(node, Node) and value(node) is not None and node.meta["val"].dtype in dtypes:
        with contextlib.suppress(Unread):
            if reader.is_element(last, node, (axis(1),), shape):
                return node
    raise Declined("its sinks are not one number a head")


def _largest(extent: Any) -> int | None:
    """The largest value of an extent; None where it has no bound."""
    if isinstance(extent, int):
        return extent
    upper = extent.node.shape_env.bound_sympy(extent.node.expr).upper
    return int(upper) if upper.is_Integer else None


PASS = Pass(NAME, apply)
