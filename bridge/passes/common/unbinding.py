"""Replaces unbind() by one select per result.

torch specialises all extents of a tensor when it functionalises a write to one result, as in
`for row in x: row.neg_()`.
"""

import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bridge.graph.programs import copied

_UNBIND = torch.ops.aten.unbind.int
_SELECT = torch.ops.aten.select.int


def select_unbound(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program without unbind; the program itself if it has none."""
    if not program.graph.find_nodes(op="call_function", target=_UNBIND):
        return program
    module, signature = copied(program)
    with module._set_replace_hook(signature.get_replace_hook()):
        for node in module.graph.find_nodes(op="call_function", target=_UNBIND):
            _select(node)
    module.recompile()
    return program._update(module, signature)


def _select(unbound: Node) -> None:
    if any(user.target is not operator.getitem for user in unbound.users):
        return
    x, dim = (*unbound.args, *unbound.kwargs.values(), 0)[:2]
    for user in list(unbound.users):
        with unbound.graph.inserting_before(unbound):
            row = unbound.graph.call_function(_SELECT, (x, dim, user.args[1]))
        row.meta = dict(user.meta)
        user.replace_all_uses_with(row)
        unbound.graph.erase_node(user)
    unbound.graph.erase_node(unbound)
