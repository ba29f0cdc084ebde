"""Which keys an attention's masks leave visible, as a condition on the indices of its logits [B, H, S, T]."""

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch.fx import Node

from bridge.passes.common.nodes import arguments, aten
from bridge.passes.window_attention.attention import Attention
from bridge.passes.window_attention.band import NoWindow
from bridge.passes.window_attention.flex import FLEX, shown
from bridge.passes.window_attention.formulas import Formula, Unread
from bridge.passes.window_attention.reader import Reader
from bridge.passes.window_attention.written_out import masked_side

_HIDDEN = -65504.0  # float16's smallest number: such a logit, or one with this added, has no weight


def visible(reader: Reader, attention: Attention) -> Any:
    """Where all masks of an attention show a key. NoWindow: one may hide it in part. Unread: one has no formula."""
    shape = attention.logits
    if attention.fused is not None and attention.fused.target is FLEX:
        return shown(reader, attention.fused)
    if attention.fused is not None:
        mask = reader.operand(attention.masks[0], shape)
        return mask.condition if mask.dtype == torch.bool else _shown(mask)
    return sympy.And(*(_BY_OPERATOR[node.target](reader, node, shape) for node in attention.masks))


def gives_zeros(attention: Attention) -> bool:
    """Whether a query that sees no key gives zeros: with sinks, or a boolean mask of scaled_dot_product_attention."""
    if attention.sinks is not None:
        return True
    is_public = attention.fused is not None and attention.fused.target is aten.scaled_dot_product_attention.default
    return is_public and attention.masks[0].meta["val"].dtype == torch.bool


def _shown(mask: Formula) -> Any:
    """Where a mask that is added to the logits shows a key: it is 0 there. Unread: it adds integers, a bias."""
    if not mask.dtype.is_floating_point:
        raise Unread("integers are added to logits")
    shown = []
    for condition, number in mask.cases:
        if number == 0:
            shown.append(condition)
        elif not number <= _HIDDEN:
            raise NoWindow(f"its mask adds {number:g} to logits, which hides no key for certain")
    return sympy.Or(*shown)


def _of_sum(reader: Reader, node: Node, shape: Sequence[Any]) -> Any:
    given = arguments(node)
    if given["alpha"] != 1:
        raise NoWindow(f"its mask is multiplied by {given['alpha']}")
    return _shown(reader.operand(given["other" if masked_side(node) == "self" else "self"], shape))


def _of_choice(reader: Reader, node: Node, shape: Sequence[Any]) -> Any:
    """Of where(condition, logits, number), or with the two exchanged."""
    given, side = arguments(node), masked_side(node)
    _check_hidden(reader, given["other" if side == "self" else "self"])
    condition = reader.operand(given["condition"], shape).condition
    return condition if side == "self" else sympy.Not(condition)


def _of_fill(reader: Reader, node: Node, shape: Sequence[Any]) -> Any:
    given = arguments(node)
    _check_hidden(reader, given["value"])
    return sympy.Not(reader.operand(given["mask"], shape).condition)


def _check_hidden(reader: Reader, logit: Any) -> None:
    for _, number in reader.formula(logit).cases:
        if not number <= _HIDDEN:
            raise NoWindow(f"its mask replaces logits by {number}, which hides no key for certain")


_BY_OPERATOR: dict[Any, Callable[[Reader, Node, Sequence[Any]], Any]] = {
    aten.add.Tensor: _of_sum,
    aten.where.self: _of_choice,
    aten.where.ScalarOther: _of_choice,
    aten.masked_fill.Scalar: _of_fill,
    aten.masked_fill.Tensor: _of_fill,
}
