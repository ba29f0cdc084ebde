"""Long attention without a mask, or with a causal one, as bridge::window_attention without a window.

TensorRT has such attention itself. Where its kernel is the slower one, as measured of a flavour on a GPU, the pass is
on by default for engines of these, for sequences as long as those that were measured.
"""

from typing import Any

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import arguments, mutated_nodes, nodes_between, same_extents, value
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.window_attention import erase
from bridge.passes.window_attention.attention import Attention, Declined, is_of_heads, settings_of
from bridge.passes.window_attention.band import UNLIMITED
from bridge.passes.window_attention.find import FUSED, fused

NAME = "full_attention"
OP = "window_attention"
# Keys from which on TensorRT-RTX 1.6.1's kernel is the slower one on an H200, of heads up to 128 channels, and wider.
LONG, LONG_OF_WIDE = 2048, 4096
_WIDE = 128
_NARROW = (torch.float16, torch.bfloat16)
_VECTOR = 8  # elements of head_dim that the op's kernels for tensor cores read at once


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces long attention in a graph, in place."""
    mutated, editor = mutated_nodes(graph), Editor(graph)

    def rewrite(node: Node) -> str | None:
        found = _find(node)
        if found is None:
            return None
        attention, causal = found
        inside = nodes_between(attention.root, (attention.q, attention.k, attention.v))
        if mutated & inside:
            raise Declined(MUTATED)
        attention.check()
        _check_widths(attention)
        settings = settings_of(UNLIMITED, 0 if causal else UNLIMITED, attention.scale)
        tensors = (attention.q, attention.k, attention.v)
        editor.replace(attention.root, editor.call(OPS[OP].overload, tensors, attention.root, settings))
        erase(graph, attention, inside)
        return f"bridge.{OP}{', causal' if causal else ''}, without a window"

    return rewrite_each(graph.nodes, rewrite, (Declined, LayoutError), NAME, editor)


def _find(node: Node) -> tuple[Attention, bool] | None:
    """Long attention without a mask, and whether it is causal; None for any other node."""
    given = arguments(node) if node.target in FUSED else None
    if given is None or given[FUSED[node.target]] is not None:  # type: ignore[index]
        return None
    attention = fused(node, given)
    if attention is None or value(attention.q) is None or not is_of_heads(attention) or not _is_long(attention):
        return None
    causal = bool(given["is_causal"])
    if causal and not same_extents(attention.logits[2:3], attention.logits[3:]):
        return None  # the op's queries are at the end of more keys, PyTorch's at their begin
    return attention, causal


def _check_widths(attention: Attention) -> None:
    """Declined: values are not as wide as queries; what the op takes then was not measured."""
    q, v = (each.meta["val"].shape[-1] for each in (attention.q, attention.v))
    if not same_extents((q,), (v,)):
        raise Declined(f"heads are {q} wide, values {v}; only those of one width were measured")


def _is_long(attention: Attention) -> bool:
    """Whether tensor cores compute it, on so many keys as were measured, for the sizes of the example."""
    q, keys = attention.q.meta["val"], attention.logits[3]
    width = q.shape[3]
    fits = q.dtype in _NARROW and isinstance(width, int) and width % _VECTOR == 0
    return fits and (_example(keys) or 0) >= (LONG if width <= _WIDE else LONG_OF_WIDE)


def _example(extent: Any) -> int | None:
    """An extent of the example that was exported; None where it depends on data."""
    if isinstance(extent, int):
        return extent
    return int(extent.node.hint) if extent.node.has_hint() else None


PASS = Pass(NAME, apply, measured=(("tensorrt_rtx", "sm90"),), rank=1)
