"""Attention with a mask, and what bridge.window_attention takes of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.passes.common.nodes import same_extents, value

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

    @property
    def is_capped_or_has_sinks(self) -> bool:
        """Whether it is more than what TensorRT's own attention computes."""
        return bool(self.softcap) or self.sinks is not None

    def check(self) -> None:
        """Declined: bridge.window_attention does not take it, or would compute it in vain."""
        q, k, v = (each.meta["val"] for each in (self.q, self.k, self.v))
        if self.shares_weights:
            raise Declined("its weights are used elsewhere, too")
        check_widths(q, v)
        dtypes = [each.dtype for each in (q, k, v, self.root.meta["val"])]
        if len(set(dtypes)) != 1 or dtypes[0] not in _DTYPES:
            raise Declined(f"it is computed in {', '.join(map(str, dtypes))}; expected one of {_DTYPES}")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale):
            raise Declined(f"its logits are scaled by {self.scale}; expected a finite number other than 0")
        if not statically_known_true(k.shape[2] >= q.shape[2]):
            raise Declined(f"it has {q.shape[2]} queries and {k.shape[2]} keys, perhaps fewer keys than queries")


def check_widths(q: Tensor, v: Tensor) -> None:
    """Declined: the heads of queries or of values are wider than the op takes them."""
    widths = (q.shape[-1], v.shape[-1])
    if not all(isinstance(width, int) and width <= _MOST_LANES for width in widths):
        raise Declined(f"heads are {widths[0]} wide, values {widths[1]}; expected up to {_MOST_LANES}")


def settings_of(left: int, right: int, scale: float | None, softcap: float = 0.0) -> dict[str, float]:
    """Attributes of bridge.window_attention: a window, a scale and a soft-cap, if there are any."""
    settings: dict[str, float] = {"window_left": left, "window_right": right}
    if scale is not None:
        settings["scale"] = scale
    if softcap:
        settings["softcap"] = softcap
    return settings


def settings_text(settings: Mapping[str, float]) -> str:
    """The same for people."""
    return ", ".join(f"{name}={number:g}" for name, number in settings.items())


def is_of_heads(attention: Attention) -> bool:
    """Whether the shapes are those of attention of heads, whose keys may be shared by groups of query heads."""
    q, k, v = (value(each) for each in (attention.q, attention.k, attention.v))
    if q is None or k is None or v is None or not q.dim() == k.dim() == v.dim() == 4:
        return False
    heads, groups = q.shape[1], k.shape[1]
    if not isinstance(heads, int) or not isinstance(groups, int) or heads % groups:
        return False
    same_batch_and_width = same_extents((q.shape[0], q.shape[3]), (k.shape[0], k.shape[3]))
    return same_batch_and_width and same_extents(k.shape[:3], v.shape[:3])
