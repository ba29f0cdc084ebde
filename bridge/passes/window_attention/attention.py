"""Attention with a mask in a graph: scaled_dot_product_attention, or softmax(mask(cap(scale q kᵀ))) v written out."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import arguments, aten, same_extents, value
from bridge.passes.window_attention import written_out
from bridge.passes.window_attention.heads import before_repeat

SDPA = aten.scaled_dot_product_attention.default
# Attention of one node, and the name of its mask. Those without the public name return several tensors.
_FUSED = {
    SDPA: "attn_mask",
    aten._scaled_dot_product_flash_attention_for_cpu.default: "attn_mask",
    aten._scaled_dot_product_efficient_attention.default: "attn_bias",
    aten._scaled_dot_product_cudnn_attention.default: "attn_bias",
}
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_LANES = 256  # head_dim of bridge.window_attention


class Declined(Exception):
    """Why attention with a window is not replaced."""


@dataclass(frozen=True)
class Attention:
    """Attention of heads.

    root: its result, [B, H, S, D]. q: [B, H, S, D]. k, v: [B, G, T, D]. fused: the one node that computes it, if it is
    not written out. masks: the mask of that node, or the nodes that apply one. scale: None for 1 / sqrt(D). sinks: each
    query's last logit, [B, H, S, 1]. shares_weights: the weights are used elsewhere, too.
    """

    root: Node
    q: Node
    k: Node
    v: Node
    fused: Node | None
    masks: tuple[Node, ...]
    scale: float | None
    softcap: float = 0.0
    sinks: Node | None = None
    shares_weights: bool = False

    @property
    def logits(self) -> tuple[Any, ...]:
        """The shape of its logits, [B, H, S, T]."""
        return (*self.q.meta["val"].shape[:3], self.k.meta["val"].shape[2])

    def check(self) -> None:
        """Declined: bridge.window_attention does not take it, or would compute it in vain."""
        q, k, v = (each.meta["val"] for each in (self.q, self.k, self.v))
        if self.shares_weights:
            raise Declined("its weights are used elsewhere, too")
        if not same_extents(v.shape[3:], q.shape[3:]) or not isinstance(q.shape[3], int) or q.shape[3] > _MOST_LANES:
            raise Declined(f"heads are {q.shape[3]} wide, values {v.shape[3]}; expected one width up to {_MOST_LANES}")
        dtypes = [each.dtype for each in (q, k, v, self.root.meta["val"])]
        if len(set(dtypes)) != 1 or dtypes[0] not in _DTYPES:
            raise Declined(f"it is computed in {', '.join(map(str, dtypes))}; expected one of {_DTYPES}")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale):
            raise Declined(f"its logits are scaled by {self.scale}; expected a finite number other than 0")
        if not statically_known_true(k.shape[2] >= q.shape[2]):
            raise Declined(f"it has {q.shape[2]} queries and {k.shape[2]} keys, perhaps fewer keys than queries")


def find_attention(node: Node, constants: Constants) -> Attention | None:
    """The attention with a mask that a node computes, or whose softmax it is; None for any other node."""
    attention = None
    if node.target in _FUSED:
        attention = _fused(node)
    elif node.target in _SOFTMAX:
        attention = _written_out(node, constants)
    return attention if attention is not None and _is_of_heads(attention) else None


def _fused(node: Node) -> Attention | None:
    given = arguments(node)
    mask, scale = given[_FUSED[node.target]], given["scale"]  # type: ignore[index]
    if value(mask) is None or given["dropout_p"] != 0 or given["is_causal"] is not False:
        return None
    if scale is not None and not isinstance(scale, (int, float)):
        return None
    k, v = given["key"], given["value"]
    if not given.get("enable_gqa", False):
        k, v = before_repeat(k, v)
    root = node if node.target is SDPA else next((user for user in node.users if user.args[1:] == (0,)), None)
    if root is None or (root is not node and len(node.users) > 1):
        return None
    return Attention(root, given["query"], k, v, node, (mask,), scale)


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


def _is_of_heads(attention: Attention) -> bool:
    """Whether the shapes are those of attention of heads, whose keys may be shared by groups of query heads."""
    q, k, v = (value(each) for each in (attention.q, attention.k, attention.v))
    if q is None or k is None or v is None or not q.dim() == k.dim() == v.dim() == 4:
        return False
    heads, groups = q.shape[1], k.shape[1]
    if not isinstance(heads, int) or not isinstance(groups, int) or heads % groups:
        return False
    same_batch_and_width = same_extents((q.shape[0], q.shape[3]), (k.shape[0], k.shape[3]))
    return same_batch_and_width and same_extents(k.shape[:3], v.shape[:3])
