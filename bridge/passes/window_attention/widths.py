"""Calls of attention ops where values are not as wide as queries, as the op takes them: filled up with zeros.

Zeros add nothing to dot products, and the channels of a result that zeros give are cut off: nothing else changes.
"""

from typing import Any

from torch._ops import OpOverload
from torch.fx import Node

from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import aten, same_extents


def call_of_one_width(
    editor: Editor, op: OpOverload, tensors: tuple[Node, ...], like: Node, settings: dict[str, Any]
) -> Node:
    """The call's result, as wide as the values. tensors: q, k, v, and maybe more; settings: by name, of the op."""
    q, k, v, *more = tensors
    narrow, wide = (each.meta["val"].shape[-1] for each in (q, v))
    if same_extents((narrow,), (wide,)):
        return editor.call(op, tensors, like, settings)
    width = max(narrow, wide)
    filled = tuple(_filled(editor, each, width, like) for each in (q, k, v))
    call = editor.call(op, (*filled, *more), like, {"scale": narrow**-0.5, **settings})
    return call if wide == width else editor.call(aten.slice.Tensor, (call, 3, 0, wide), like)


def _filled(editor: Editor, tensor: Node, width: int, like: Node) -> Node:
    missing = width - tensor.meta["val"].shape[-1]
    return editor.call_once(aten.constant_pad_nd.default, (tensor, [0, missing], 0.0), like) if missing else tensor
