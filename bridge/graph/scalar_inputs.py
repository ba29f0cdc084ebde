"""Removes numbers from the inputs of a graph of torch.compile, for an engine takes tensors alone.

They are extents, integers, and floats of the model such as a scale, which torch.compile passes as tensors where shapes
are dynamic. A number that is a tensor's extent is read from that tensor. Any other is specialised, with a guard.
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


def remove_number_inputs(gm: GraphModule, args: MutableSequence[Any]) -> None:
    """Removes the numbers from a graph's placeholders, and from `args`."""
    for place, node in reversed(list(enumerate(gm.graph.find_nodes(op="placeholder")))):
        value = node.meta.get("example_value")
        if isinstance(value, torch.SymInt):
            replace_number_input(node, value)
        elif is_float_input(node):
            specialize_float(node)
        else:
            continue
        del args[place]
    gm.graph.lint()
    gm.recompile()


def replace_number_input(node: Node, number: torch.SymInt) -> None:
    """Removes an integer placeholder; its uses read a tensor's extent, or become a constant with a guard."""
    if node.users:
        place = _extent_of(node.graph, number)
        if place is None:
            node.replace_all_uses_with(int(number))  # type: ignore[arg-type]
        else:
            with node.graph.inserting_after(node.graph.find_nodes(op="placeholder")[-1]):
                extent = node.graph.call_function(torch.ops.aten.sym_size.int, place)
            extent.meta = {key: node.meta[key] for key in ("example_value", "stack_trace") if key in node.meta}
            node.replace_all_uses_with(extent)
    node.graph.erase_node(node)


def is_float_input(node: Node) -> bool:
    """Whether a placeholder is a float of the model that torch.compile passes as a tensor."""
    memo = getattr(node.meta.get("example_value"), "item_memo", None)
    return isinstance(memo, torch.SymFloat) and all(user.target == "item" for user in node.users)


def specialize_float(node: Node) -> None:
    """Removes such a placeholder; its uses become a constant with a guard."""
    for user in list(node.users):
        user.replace_all_uses_with(guard_scalar(node.meta["example_value"].item_memo))  # type: ignore[arg-type]
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _extent_of(graph: Graph, number: torch.SymInt) -> tuple[Node, int] | None:
    """(input, axis) of an extent that equals the number."""
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("example_value")
        for axis, extent in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if is_dynamic(extent) and extent.node.expr == number.node.expr:
                return node, axis
    return None
