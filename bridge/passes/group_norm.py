"""Group and instance normalisation with the SiLU, ReLU or GELU that follows, as bridge::group_norm.

A module that computes in float32 what it takes and returns in 16 bits (as latent diffusion's GroupNorm32) loses both
conversions: the op computes in float32 and rounds once. A normalisation that no activation follows stays TensorRT's
layer.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import CONVERSIONS, arguments, aten, mutated_nodes, users_of, value
from bridge.passes.common.outcome import MUTATED, Outcome

NAME = "group_norm"
_NARROW = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, *_NARROW)
_ACTIVATIONS = {aten.silu.default: "silu", aten.relu.default: "relu"}


class Declined(Exception):
    """Why a normalisation is not replaced."""


@dataclass
class Norm:
    """A normalisation: its operands, the node whose value it is, and what follows up to `end`, which is replaced."""

    x: Node
    weight: Node | None
    bias: Node | None
    groups: int
    eps: float
    nodes: list[Node]
    activation: str = "none"

    @property
    def end(self) -> Node:
        """The node that is replaced."""
        return self.nodes[-1]


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces normalisations in a graph, in place."""
    mutated, editor = mutated_nodes(graph), Editor(graph)

    def rewrite(node: Node) -> str | None:
        norm = _READERS[node.target](node)
        if norm is None:
            return None
        _extend(norm)
        if norm.activation == "none":
            if norm.end in mutated:  # by an activation in place, perhaps
                raise Declined(MUTATED)
            return None
        _check(norm, mutated)
        attributes = {"groups": norm.groups, "eps": norm.eps, "activation": norm.activation}
        result = editor.call(OPS[NAME].overload, (norm.x, norm.weight, norm.bias), norm.end, attributes)
        editor.replace(norm.end, result)
        return f"bridge.group_norm, {norm.groups} groups, activation {norm.activation}"

    found = [node for node in graph.nodes if node.op == "call_function" and node.target in _READERS]
    return rewrite_each(found, rewrite, (Declined, LayoutError), NAME, editor)


def _group_norm(node: Node) -> Norm | None:
    given = arguments(node)
    operands = given["input"], given["weight"], given["bias"]
    return Norm(*operands, given["num_groups"], float(given["eps"]), [node])


def _native_group_norm(node: Node) -> Norm | None:
    """Where only its first result is used."""
    given, users = arguments(node), list(node.users)
    used = [user for user in users if user.users]
    if len(used) != 1 or used[0].target is not operator.getitem or used[0].args[1] != 0:
        return None
    operands = given["input"], given["weight"], given["bias"]
    return Norm(*operands, given["group"], float(given["eps"]), [node, used[0]])


def _instance_norm(node: Node) -> Norm | None:
    """Where it takes the moments of its input, and keeps none."""
    given, x = arguments(node), value(node.args[0])
    if not given["use_input_stats"] or given["running_mean"] is not None or x is None:
        return None
    if not isinstance(x.shape[1], int):
        raise Declined("its channels are dynamic")
    return Norm(given["input"], given["weight"], given["bias"], x.shape[1], float(given["eps"]), [node])


_READERS: dict[Any, Callable[[Node], Norm | None]] = {
    aten.group_norm.default: _group_norm,
    aten.native_group_norm.default: _native_group_norm,
    aten.instance_norm.default: _instance_norm,
}


def _extend(norm: Norm) -> None:
    """Takes in the activation, and the conversions to float32 and back."""
    narrow = _narrow_source(norm.x)
    following = _following(norm.end)
    while following is not None:
        nodes, activation = following
        if activation is not None and norm.activation == "none":
            norm.activation = activation
        elif activation is None and narrow is not None and _dtype(nodes[-1]) == _dtype(narrow):
            norm.x, narrow = narrow, None
        else:
            return
        norm.nodes += nodes
        following = _following(norm.end)


def _narrow_source(x: Node) -> Node | None:
    """What a conversion of 16 bits to float32 takes; None for other nodes."""
    if x.target not in CONVERSIONS or _dtype(x) != torch.float32:
        return None
    source = x.args[0]
    return source if isinstance(source, Node) and _dtype(source) in _NARROW else None


def _following(node: Node) -> tuple[list[Node], str | None] | None:
    """The nodes of what alone takes a node's value, with the activation that they are; None: a conversion."""
    users = users_of(node)
    if len(users) == 2:
        return _product_with_sigmoid(node, users)
    if len(users) != 1:
        return None
    (user,) = users
    if user.target in _ACTIVATIONS:
        return [user], _ACTIVATIONS[user.target]
    if user.target is aten.gelu.default and arguments(user)["approximate"] == "none":
        return [user], "gelu"
    return ([user], None) if user.target in CONVERSIONS and user.args[0] is node else None


def _product_with_sigmoid(node: Node, users: list[Node]) -> tuple[list[Node], str] | None:
    """SiLU as torch decomposes it."""
    sigmoid, product = sorted(users)
    is_product = product.target is aten.mul.Tensor and set(product.args) == {node, sigmoid}
    alone = sigmoid.target is aten.sigmoid.default and list(sigmoid.users) == [product]
    return ([sigmoid, product], "silu") if is_product and alone else None


def _check(norm: Norm, mutated: set[Node]) -> None:
    if mutated & {norm.x, *norm.nodes}:
        raise Declined(MUTATED)
    x, end = value(norm.x), value(norm.end)
    if x is None or end is None or x.dtype not in _DTYPES or x.dtype != end.dtype:
        raise Declined(f"it takes {_dtype(norm.x)} and returns {_dtype(norm.end)}")
    if norm.eps < 0:
        raise Declined(f"its eps is {norm.eps}")
    for tensor in (norm.weight, norm.bias):
        if tensor is not None and _dtype(tensor) not in (x.dtype, torch.float32):
            raise Declined(f"its weights are {_dtype(tensor)} beside {x.dtype}")


def _dtype(node: Any) -> torch.dtype | None:
    tensor = value(node)
    return None if tensor is None else tensor.dtype


PASS = Pass(NAME, apply, default=False)  # until its plugin is measured against TensorRT's own layers
