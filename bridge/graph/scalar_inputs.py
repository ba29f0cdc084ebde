"""Numbers among the arguments of a graph of torch.compile, which an engine does not take: extents of its tensors,
integers, and floats of the model such as a scale, which torch.compile passes as tensors where shapes are dynamic.

A number becomes the extent of a tensor that it is, else its value, which torch.compile guards from then on.
"""

from collections.abc import MutableSequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import guard_scalar


def is_dynamic(extent: Any) -> TypeGuard[torch.SymInt]:
    """Whether an extent is an expression in symbols, not a number."""
    return isinstance(extent, torch.SymInt) and not extent.node.expr.is_number


def take_numbers(gm: GraphModule, args: MutableSequence[Any]) -> None:
    """Leaves a graph its tensors as arguments, and `args` those that it still takes."""
    for place, node in reversed(list(enumerate(gm.graph.find_nodes(op="placeholder")))):
        value = node.meta.get("example_value")
        if isinstance(value, torch.SymInt):
            replace_number(node, value)
        elif is_float(node):
            fix_float(node)
        else:
            continue
        del args[place]
    gm.graph.lint()
    gm.recompile()


def replace_number(node: Node, number: torch.SymInt) -> None:
    """Replaces an integer that a graph takes, and takes the argument away."""
    if node.users:
        found = _extent_of(node.graph, number)
        if found is None:
            node.replace_all_uses_with(int(number))  # type: ignore[arg-type]
        else:
            with node.graph.inserting_after(node.graph.find_nodes(op="placeholder")[-1]):
                extent = node.graph.call_function(torch.ops.aten.sym_size.int, found)
            extent.meta = {key: node.meta[key] for key in ("example_value", "stack_trace") if key in node.meta}
            node.replace_all_uses_with(extent)
    node.graph.erase_node(node)


def is_float(node: Node) -> bool:
    """Whether an argument is a float of the model that is passed as a tensor."""
    memo = getattr(node.meta.get("example_value"), "item_memo", None)
    return isinstance(memo, torch.SymFloat) and all(user.target == "item" for user in node.users)


def fix_float(node: Node) -> None:
    """Replaces such a float by its value, and takes the argument away."""
    for user in list(node.users):
        user.replace_all_uses_with(guard_scalar(node.meta["example_value"].item_memo))  # type: ignore[arg-type]
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _extent_of(graph: Graph, number: torch.SymInt) -> tuple[Node, int] | None:
    """An input of the graph and an axis of it whose extent is that number."""
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("example_value")
        for axis, extent in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if is_dynamic(extent) and extent.node.expr == number.node.expr:
                return node, axis
    return None
