"""Drops what a model asserts of its tensors' values: an engine makes no such checks.

`torch._check_with(condition)` of a tensor exports as the tensor's value, a number without a proxy for torch when it
decomposes the program, and an assertion of it. Assertions of extents stay: the ranges of extents are checked by them.
"""

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bridge.graph.programs import copied

_ASSERT = torch.ops.aten._assert_scalar.default
_ITEMS = {torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default}


def without_value_assertions(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program without assertions of a boolean tensor's value; the program itself if it has none."""
    if not _of_values(program.graph):
        return program
    module, signature = copied(program)
    with module._set_replace_hook(signature.get_replace_hook()):
        for assertion, scalars in _of_values(module.graph):
            module.graph.erase_node(assertion)
            _erase_unused(scalars)
    module.recompile()
    return program._update(module, signature)


def _of_values(graph: Graph) -> list[tuple[Node, list[Node]]]:
    """The assertions of a boolean tensor's value, each with the numbers that it is computed of."""
    found = [(node, _scalars_before(node)) for node in graph.find_nodes(op="call_function", target=_ASSERT)]
    return [(node, scalars) for node, scalars in found if any(map(_is_of_boolean, scalars))]


def _is_of_boolean(scalar: Node) -> bool:
    tensor = scalar.args[0] if scalar.target in _ITEMS else None
    return isinstance(tensor, Node) and tensor.meta["val"].dtype == torch.bool


def _scalars_before(node: Node) -> list[Node]:
    """The numbers that a node is computed of, from the last to the first: those before them are tensors."""
    found: dict[Node, None] = {}
    pending = [node]
    while pending:
        before = [each for each in pending.pop().all_input_nodes if not isinstance(each.meta.get("val"), torch.Tensor)]
        pending += [each for each in before if each.op == "call_function" and each not in found]
        found |= dict.fromkeys(each for each in before if each.op == "call_function")
    return list(found)


def _erase_unused(nodes: list[Node]) -> None:
    for node in nodes:
        if not node.users:
            node.graph.erase_node(node)
