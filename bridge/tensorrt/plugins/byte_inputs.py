"""Bytes that plugins take, such as images.

TensorRT has UINT8 tensors at the border of an engine alone, and gives them to no plugin: "UInt8 datatype formats are
not supported" (TensorRT-RTX 1.7.1). So a network declares an input that plugins take as bytes as INT8, and the plugin
reads the same memory. Callers pass uint8 all the same.
"""

from typing import Any

import torch
from torch.fx import Node

from bridge.core import foreign
from bridge.core.op import Op
from bridge.tensorrt.install import version_shims

aten = torch.ops.aten
_BYTES = {torch.uint8, torch.int8}


# Users that read the shape or the dtype alone.
_READERS = {aten.sym_size.int, aten.sym_size.default, aten._assert_tensor_metadata.default}


def takes_bytes(op: Op, place: int) -> bool:
    """Whether a tensor of an op, by its place among them, is `Bytes`."""
    return set(op.dtypes[place].names) == _BYTES


def declared_as_int8(placeholder: Node) -> bool:
    """Whether a network declares an input of a graph as INT8, which holds uint8."""
    users = [user for user in placeholder.users if user.target not in _READERS]
    return _is_uint8(placeholder) and bool(users) and all(_reads_bytes(user, placeholder) for user in users)


def refusal(node: Node) -> str | None:
    """Why an op's call cannot have its bytes in an engine; None where it can, or takes none."""
    op = foreign.targets().get(node.target)
    if op is None or foreign.reason_against(node) is not None:
        return None
    for name, value in _bytes_of(node):
        if _is_uint8(value) and (reason := _reason(value)) is not None:
            return f"{name} is uint8, which TensorRT gives to no plugin; {reason}"
    return None


def _reason(value: Node) -> str | None:
    if value.op != "placeholder":
        return "an input of the engine can be read as bytes, but this one is computed by the model"
    if not declared_as_int8(value):
        return "an input can be read as bytes where ops alone take it, but the model uses this one otherwise too"
    if not version_shims.in_own_conversion():
        return "torch_tensorrt declares the input so, bridge.compile declares its bytes"
    return None


def _is_uint8(value: Any) -> bool:
    return getattr(value.meta.get("val"), "dtype", None) == torch.uint8


def _bytes_of(node: Node) -> list[tuple[str, Node]]:
    """The tensors that an op's call takes as bytes, by their names."""
    op, values, _ = foreign.bind(node.target, node.args, node.kwargs)
    rows = enumerate(zip(op.tensors, values, strict=True))
    return [(name, value) for place, (name, value) in rows if takes_bytes(op, place) and isinstance(value, Node)]


def _reads_bytes(user: Node, tensor: Node) -> bool:
    """Whether a node is the call of an op that takes a tensor as bytes, and in no other way."""
    if user.target not in foreign.targets():
        return False
    return sum(value is tensor for _, value in _bytes_of(user)) == sum(each is tensor for each in _tensors(user))


def _tensors(user: Node) -> list[Any]:
    return foreign.bind(user.target, user.args, user.kwargs)[1]
