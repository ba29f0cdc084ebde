"""Inserts nodes into a graph, and replaces others by them."""

import contextlib
import heapq
import operator
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.passes.shape_prop import TensorMetadata

from bridge.passes.common.layout import LayoutError, StrideUses, memory_order, same_strides, strides_of
from bridge.passes.common.nodes import ORIGIN, aten, mutated_nodes


class Editor:
    """Inserts nodes, each with the value that torch would trace and the origin of another node.

    A node is inserted after its arguments, perhaps after its users. `sort_topologically` restores the order.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[Hashable, Node] = {}
        self._stride_uses: StrideUses | None = None

    def call(
        self,
        target: OpOverload,
        args: tuple[Any, ...],
        like: Node,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Node:
        """Inserts a call of an operator, with the origin of `like`."""
        node = self.graph.create_node("call_function", target, args, dict(kwargs or {}))
        try:
            result = _traced_result(node, like)
        except Exception:
            self.graph.erase_node(node)
            raise
        inputs = self.graph.find_nodes(op="placeholder")
        max([*node.all_input_nodes, *inputs[-1:]]).append(node)
        node.meta = {key: like.meta[key] for key in ORIGIN if key in like.meta}
        node.meta |= _value_meta(result)
        return node

    def replace(self, root: Node, result: Node) -> None:
        """Replaces all uses of `root` by `result`, which has the same elements, perhaps with other strides.

        LayoutError: something depends on the strides of `root`, and a copy cannot have them.
        """
        if not same_strides(result, root):
            self._stride_uses = self._stride_uses or StrideUses(self.graph, mutated_nodes(self.graph))
            if self._stride_uses.needs_strides(root):
                result = self._with_strides_of(result, root)
            else:
                self._stride_uses.allow_other_strides(root)
        root.replace_all_uses_with(result)

    def _with_strides_of(self, result: Node, root: Node) -> Node:
        """A copy of the result with the strides of `root`."""
        order = memory_order(root)
        inverse = [order.index(dim) for dim in range(len(order))]
        permuted = self.call(aten.permute.default, (result, order), root)
        dense = self.call(aten.clone.default, (permuted,), root, {"memory_format": torch.contiguous_format})
        strided = self.call(aten.permute.default, (dense, inverse), root)
        if not same_strides(strided, root):
            raise LayoutError(f"something depends on its strides {strides_of(root)}, which are not those of a copy")
        return strided

    def call_once(
        self, target: OpOverload, args: tuple[Any, ...], like: Node, kwargs: Mapping[str, Any] | None = None
    ) -> Node:
        """As `call`, but returns an earlier call of the same operator with these arguments, if there is one."""
        nodes = [argument for argument in args if isinstance(argument, Node)]
        key = (target, str(args), str(kwargs), *nodes)
        if key not in self._known:
            self._known[key] = self.call(target, args, like, kwargs)
        return self._known[key]

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        """The tensor in another dtype."""
        if node.meta["val"].dtype == dtype:
            return node
        return self.call_once(aten._to_copy.default, (node,), node, {"dtype": dtype})

    def extents(self, node: Node, count: int) -> list[Any]:
        """The first `count` extents of a tensor, as arguments of another call."""
        shape = node.meta["val"].shape[:count]
        return [
            extent if isinstance(extent, int) else self.call_once(aten.sym_size.int, (node, axis), node)
            for axis, extent in enumerate(shape)
        ]

    def item(self, call: Node, index: int) -> Node:
        """One of the results of a call."""
        with self.graph.inserting_after(call):
            node = self.graph.call_function(operator.getitem, (call, index))
        node.meta = {**call.meta, **_value_meta(call.meta["val"][index])}
        return node

    def sort_topologically(self) -> None:
        """Moves every node after its arguments; otherwise the order is kept."""
        sort_topologically(self.graph)


def sort_topologically(graph: Graph) -> None:
    """Moves every node of a graph after its arguments; otherwise the order is kept."""
    indices = {node: index for index, node in enumerate(graph.nodes)}
    unsorted_inputs = {node: len(node.all_input_nodes) for node in indices}
    ready = [index for node, index in indices.items() if not unsorted_inputs[node]]
    nodes = list(indices)
    output = graph.output_node()
    while ready:
        node = nodes[heapq.heappop(ready)]
        if node is not output:
            output.prepend(node)
        for user in node.users:
            unsorted_inputs[user] -= 1
            if not unsorted_inputs[user]:
                heapq.heappush(ready, indices[user])


def _value_meta(value: Any) -> dict[str, Any]:
    """The meta entries for a value. Parts of torch_tensorrt read the shape from "tensor_meta" alone."""
    if not isinstance(value, Tensor):
        return {"val": value}
    metadata = TensorMetadata(value.shape, value.dtype, False, value.stride(), None, False, {})
    return {"val": value, "tensor_meta": metadata}


def _traced_result(node: Node, like: Node) -> Any:
    """The result of a call for the traced values of its arguments, fake as that of `like` is.

    By torch's Python code where it has any, as torch.export does: in C++, a linear without bias specialises extents.
    """
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    fakes = [argument.meta.get("val") for argument in (*node.all_input_nodes, like)]
    with detect_fake_mode(fakes) or contextlib.nullcontext(), enable_python_dispatcher():
        return node.target(*args, **kwargs)  # type: ignore[operator]
