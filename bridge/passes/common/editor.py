"""How the passes put nodes into a graph."""

import contextlib
import heapq
import operator
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.passes.shape_prop import TensorMetadata

from bridge.passes.common.layout import Followers, LayoutError, lie_alike, order_of, strides_of
from bridge.passes.common.nodes import ORIGIN, aten, written


class Editor:
    """Puts nodes into a graph, each with its value as torch would trace it and the origin of another node.

    A node stands after its arguments; `sort` brings those that use it, and stood before, behind it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[Hashable, Node] = {}
        self._followers: Followers | None = None

    def call(
        self,
        target: OpOverload,
        args: tuple[Any, ...],
        like: Node,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Node:
        """A call of an operator."""
        node = self.graph.create_node("call_function", target, args, dict(kwargs or {}))
        try:
            result = _trace(node)
        except Exception:
            self.graph.erase_node(node)
            raise
        inputs = self.graph.find_nodes(op="placeholder")
        max([*node.all_input_nodes, *inputs[-1:]]).append(node)
        node.meta = {key: like.meta[key] for key in ORIGIN if key in like.meta}
        node.meta |= _described(result)
        return node

    def replace(self, root: Node, result: Node) -> None:
        """Lets all that uses `root` use `result`, of the same elements, whatever its strides are.

        LayoutError: something depends on the strides, and they cannot be those of `root`.
        """
        if not lie_alike(result, root):
            self._followers = self._followers or Followers(self.graph, written(self.graph))
            if self._followers.depend_on_strides(root):
                result = self._lay_out(result, root)
            else:
                self._followers.allow_other_strides(root)
        root.replace_all_uses_with(result)

    def _lay_out(self, result: Node, root: Node) -> Node:
        """The result with the strides of `root`."""
        order = order_of(root)
        back = [order.index(dim) for dim in range(len(order))]
        moved = self.call(aten.permute.default, (result, order), root)
        dense = self.call(aten.clone.default, (moved,), root, {"memory_format": torch.contiguous_format})
        found = self.call(aten.permute.default, (dense, back), root)
        if not lie_alike(found, root):
            raise LayoutError(f"something depends on its strides {strides_of(root)}, which are not those of a copy")
        return found

    def once(
        self, target: OpOverload, args: tuple[Any, ...], like: Node, kwargs: Mapping[str, Any] | None = None
    ) -> Node:
        """The same, or the call of that operator with these arguments that was put in before."""
        nodes = [argument for argument in args if isinstance(argument, Node)]
        key = (target, str(args), str(kwargs), *nodes)
        if key not in self._known:
            self._known[key] = self.call(target, args, like, kwargs)
        return self._known[key]

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        """A tensor in another dtype."""
        if node.meta["val"].dtype == dtype:
            return node
        return self.once(aten._to_copy.default, (node,), node, {"dtype": dtype})

    def extents(self, node: Node, count: int) -> list[Any]:
        """The first extents of a tensor, as arguments of another call."""
        shape = node.meta["val"].shape[:count]
        return [
            extent if isinstance(extent, int) else self.once(aten.sym_size.int, (node, axis), node)
            for axis, extent in enumerate(shape)
        ]

    def item(self, call: Node, index: int) -> Node:
        """One of the results of a call."""
        with self.graph.inserting_after(call):
            node = self.graph.call_function(operator.getitem, (call, index))
        node.meta = {**call.meta, **_described(call.meta["val"][index])}
        return node

    def sort(self) -> None:
        """Brings every node behind its arguments; others keep their order."""
        sort(self.graph)


def sort(graph: Graph) -> None:
    """Brings every node of a graph behind its arguments; others keep their order."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    missing = {node: len(node.all_input_nodes) for node in places}
    ready = [place for node, place in places.items() if not missing[node]]
    nodes = list(places)
    output = graph.output_node()
    while ready:
        node = nodes[heapq.heappop(ready)]
        if node is not output:
            output.prepend(node)
        for user in node.users:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, places[user])


def _described(value: Any) -> dict[str, Any]:
    """What a node's meta says of its value. Some of torch_tensorrt reads a tensor's shape from the second alone."""
    if not isinstance(value, Tensor):
        return {"val": value}
    known = TensorMetadata(value.shape, value.dtype, False, value.stride(), None, False, {})
    return {"val": value, "tensor_meta": known}


def _trace(node: Node) -> Any:
    """What a call gives for the values of its arguments."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    fakes = [argument.meta["val"] for argument in node.all_input_nodes]
    with detect_fake_mode(fakes) or contextlib.nullcontext():
        return node.target(*args, **kwargs)  # type: ignore[operator]
