"""Exported programs to change: torch's are shared with whoever exported them."""

import copy

from torch.export import ExportedProgram, ExportGraphSignature
from torch.fx import GraphModule


def copied(program: ExportedProgram) -> tuple[GraphModule, ExportGraphSignature]:
    """A program's module, with a graph of its own, and its signature, for `program._update` once they are changed."""
    module = GraphModule(program.graph_module, program.graph.__deepcopy__())
    module.meta = dict(program.graph_module.meta)
    return module, copy.deepcopy(program.graph_signature)
