"""Copies of exported programs, to be changed: the caller keeps the original."""

import copy

from torch.export import ExportedProgram, ExportGraphSignature
from torch.fx import GraphModule


def copied(program: ExportedProgram) -> tuple[GraphModule, ExportGraphSignature]:
    """Copies of a program's module and signature, to be changed and given to `program._update`."""
    graph = program.graph.__deepcopy__()
    for node, original in zip(graph.nodes, program.graph.nodes, strict=True):
        node.name = original.name  # torch renames a node that is called like a function of Python, such as "input"
    module = GraphModule(program.graph_module, graph)
    module.meta = dict(program.graph_module.meta)
    return module, copy.deepcopy(program.graph_signature)
