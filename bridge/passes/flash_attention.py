"""Operators of the packages flash_attn and flash_attn_3 as bridge::window_attention.

A model that calls `flash_attn_func` or `flash_attn_varlen_func`, or one of transformers with FlashAttention, exports as
these operators, which TensorRT has not. They compute what bridge's op does: queries at the end of the keys, zeros for a
query that sees none. Packed sequences become an interval of keys for each query.
"""

from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import arguments, aten, value
from bridge.passes.common.outcome import Outcome
from bridge.passes.window_attention.attention import Declined, check_widths, settings_of, settings_text
from bridge.passes.window_attention.band import UNLIMITED
from bridge.passes.window_attention.widths import call_of_one_width

NAME = "flash_attention"
OP = "window_attention"
_OPERATORS = {
    "flash_attn::_flash_attn_forward",
    "flash_attn::_flash_attn_varlen_forward",
    "flash_attn_3::_flash_attn_forward",
}
_PACKED = ("cu_seqlens_q", "cu_seqlens_k")
_READ = {"q", "k", "v", "softmax_scale", "causal", "window_size_left", "window_size_right", "softcap", *_PACKED}
# How it is computed, and not what; the largest lengths only size a launch.
_WITHOUT_EFFECT = {"return_softmax", "zero_tensors", "deterministic", "max_seqlen_q", "max_seqlen_k", "num_splits"}
_WITHOUT_EFFECT |= {"pack_gqa", "sm_margin", "scheduler_metadata", "rotary_interleaved"}
_BEHIND = 2**31 - 1  # every key
_DTYPES = (torch.float16, torch.bfloat16)


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces the calls of these operators in a graph, in place."""
    editor = Editor(graph)

    def rewrite(node: Node) -> str | None:
        if not isinstance(node.target, OpOverload) or node.target._schema.name not in _OPERATORS:
            return None
        given = arguments(node)
        root = _only_result(node)
        _check(given)
        packed = value(given.get(_PACKED[0])) is not None or value(given.get(_PACKED[1])) is not None
        settings = _settings(given)
        tensors = tuple(given[name] for name in "qkv")
        editor.replace(
            root, _packed(editor, node, given, settings) if packed else _call(editor, tensors, node, settings)
        )
        return f"bridge.{OP}, {settings_text(settings)}{', of packed sequences' if packed else ''}"

    return rewrite_each(graph.nodes, rewrite, (Declined, LayoutError), NAME, editor)


def _only_result(node: Node) -> Node:
    """The attention among the results. Declined: another result is used, or none is."""
    used = {user.args[1]: user for user in node.users if user.users}
    if set(used) != {0}:
        raise Declined(f"its results {sorted(map(str, used))} are used; expected the first one alone")
    return used[0]


def _check(given: dict[str, Any]) -> None:
    more = [name for name in given if name not in _READ | _WITHOUT_EFFECT and given[name] not in (None, 0, False)]
    if more:
        raise Declined(f"{', '.join(more)} are given, which bridge.{OP} has not")
    q, k, v = (given[name].meta["val"] for name in "qkv")
    if q.dtype not in _DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        raise Declined(f"it is computed in {q.dtype}, {k.dtype} and {v.dtype}; expected one of {_DTYPES}")
    check_widths(q, v)


def _settings(given: dict[str, Any]) -> dict[str, float]:
    left, right = (max(given[f"window_size_{side}"], UNLIMITED) for side in ("left", "right"))
    return settings_of(left, 0 if given["causal"] else right, given["softmax_scale"] or None, given["softcap"])


def _call(editor: Editor, tensors: tuple[Node, ...], like: Node, settings: dict[str, Any]) -> Node:
    return call_of_one_width(editor, OPS[OP].overload, tensors, like, {**settings, "layout": "bshd"})


def _packed(editor: Editor, node: Node, given: dict[str, Any], settings: dict[str, float]) -> Node:
    """Of sequences in a row, [tokens, heads, D]: one sequence whose queries see the keys of their own.

    Declined: queries and keys are packed differently, so that a query's position among the keys is not its own.
    """
    starts = given[_PACKED[0]]
    if starts is not given[_PACKED[1]]:
        raise Declined(f"{' and '.join(_PACKED)} are not one tensor")
    ranges = _ranges_of_tokens(editor, node, starts, given["q"])
    tensors = tuple(editor.call(aten.unsqueeze.default, (given[name], 0), node) for name in "qkv")
    result = _call(editor, tensors, node, {**settings, "key_ranges": ranges})
    return editor.call(aten.squeeze.dim, (result, 0), node)


def _ranges_of_tokens(editor: Editor, node: Node, starts: Node, q: Node) -> Node:
    """[1, tokens, 2]: begin and end of each token's sequence, of the begins of all and the end, [sequences + 1]."""

    def call(target: OpOverload, *args: Any, **kwargs: Any) -> Node:
        return editor.call(target, args, node, kwargs)

    index, device = starts.meta["val"].dtype, starts.meta["val"].device
    begins, ends = call(aten.slice.Tensor, starts, 0, 0, -1), call(aten.slice.Tensor, starts, 0, 1)
    (tokens,), (sequences,) = editor.extents(q, 1), editor.extents(begins, 1)
    token = call(aten.unsqueeze.default, call(aten.arange.default, tokens, dtype=index, device=device), 1)
    # Broadcasting would ask whether there is one sequence.
    token, begins, ends = (call(aten.expand.default, each, [tokens, sequences]) for each in (token, begins, ends))
    begun, ended = call(aten.ge.Tensor, token, begins), call(aten.ge.Tensor, token, ends)
    begin = call(aten.amax.default, call(aten.where.ScalarOther, begun, begins, 0), [1])
    end = call(aten.amin.default, call(aten.where.ScalarSelf, ended, _BEHIND, ends), [1])
    return call(aten.unsqueeze.default, call(aten.stack.default, [begin, end], 1), 0)


PASS = Pass(NAME, apply)
