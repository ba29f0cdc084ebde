"""Finds attention in a graph: one node, FlexAttention's, or softmax(mask(cap(scale q kᵀ))) v written out."""

from collections.abc import Mapping
from typing import Any

from torch.fx import Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import arguments, aten, value
from bridge.passes.window_attention import written_out
from bridge.passes.window_attention.attention import Attention, is_of_heads
from bridge.passes.window_attention.flex import FLEX, find_flex
from bridge.passes.window_attention.heads import before_repeat

SDPA = aten.scaled_dot_product_attention.default
# Attention of one node, and the name of its mask. Those without the public name return several tensors.
FUSED = {
    SDPA: "attn_mask",
    aten._scaled_dot_product_flash_attention_for_cpu.default: "attn_mask",
    aten._scaled_dot_product_efficient_attention.default: "attn_bias",
    aten._scaled_dot_product_cudnn_attention.default: "attn_bias",
}
_SOFTMAX = {aten.softmax.int, aten._softmax.default}


def find_attention(node: Node, constants: Constants) -> Attention | None:
    """The attention with a mask that a node computes, or whose softmax it is; None for any other node."""
    attention = None
    if node.target in FUSED:
        attention = _fused(node)
    elif node.target is FLEX:
        attention = find_flex(node, constants)
    elif node.target in _SOFTMAX:
        attention = _written_out(node, constants)
    return attention if attention is not None and is_of_heads(attention) else None


def _fused(node: Node) -> Attention | None:
    given = arguments(node)
    mask = given[FUSED[node.target]]  # type: ignore[index]
    if value(mask) is None or given["is_causal"] is not False:
        return None
    return fused(node, given, (mask,))


def fused(node: Node, given: Mapping[str, Any], masks: tuple[Node, ...] = ()) -> Attention | None:
    """The attention that one of `FUSED` computes, whose arguments are `given`, or None."""
    scale = given["scale"]
    if given["dropout_p"] != 0 or not (scale is None or isinstance(scale, (int, float))):
        return None
    k, v = given["key"], given["value"]
    if not given.get("enable_gqa", False):
        k, v = before_repeat(k, v)
    root = node if node.target is SDPA else next((user for user in node.users if user.args[1:] == (0,)), None)
    if root is None or (root is not node and len(node.users) > 1):
        return None
    return Attention(root, given["query"], k, v, node, masks, scale)


def _written_out(softmax: Node, constants: Constants) -> Attention | None:
    logits = written_out.find_logits(softmax, constants)
    product = None if logits is None else written_out.product_with_values(softmax, logits.sinks is not None)
    if logits is None or product is None:
        return None
    root, alone = product
    v = root.args[1]
    q, k = (written_out.before_widening(each, v) for each in (logits.q, logits.k))
    k, v = before_repeat(k, v)
    return Attention(root, q, k, v, None, logits.masks, logits.scale, logits.softcap, logits.sinks, not alone)
