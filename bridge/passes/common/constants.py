"""Constant folding: the values of small weights, and of nodes that are computed from those alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from bridge.passes.common.nodes import is_copy

_MOST = 4096  # elements of a tensor that is folded


class Constants:
    """The constant values of the nodes of graphs. inputs: tensors behind their placeholders, by name."""

    def __init__(self, inputs: Mapping[str, Any] | None = None) -> None:
        self._inputs = inputs or {}
        self._known: dict[Node, Tensor | None] = {}

    def value(self, node: Any) -> Tensor | None:
        """The value of a node; None where it depends on inputs, or is too large."""
        if not isinstance(node, Node):
            return None
        if node not in self._known:
            self._known[node] = self._fold(node)
        return self._known[node]

    def held(self, node: Node) -> Tensor | None:
        """The tensor behind a placeholder or an attribute, of any size; None for other nodes and for inputs."""
        if node.op == "placeholder":
            return _real(self._inputs.get(node.name))
        if node.op != "get_attr":
            return None
        tensor: Any = node.graph.owning_module  # that of mask_mod's graph is its own
        for name in str(node.target).split("."):
            tensor = getattr(tensor, name, None)
        return _real(tensor)

    def _fold(self, node: Node) -> Tensor | None:
        traced = node.meta.get("val")
        if not isinstance(traced, Tensor) or not all(isinstance(extent, int) for extent in traced.shape):
            return None
        if traced.numel() > _MOST:
            return None
        return self.held(node) if node.op in ("placeholder", "get_attr") else self._compute(node)

    def _compute(self, node: Node) -> Tensor | None:
        if is_copy(node):
            return self.value(node.args[0])
        if not isinstance(node.target, OpOverload) or node.target._schema.is_mutable:
            return None
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            return None
        values = {argument: self.value(argument) for argument in node.all_input_nodes}
        if any(value is None for value in values.values()):
            return None
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: values[argument])
        with torch.no_grad():
            return _real(node.target(*args, **kwargs))


def _real(tensor: Any) -> Tensor | None:
    fake = isinstance(tensor, torch._subclasses.FakeTensor)
    return tensor.detach() if isinstance(tensor, Tensor) and not fake and tensor.layout == torch.strided else None
