"""Programs without in-place writes: what a write would do to a tensor is the value of a node of its own.

A pass proves what a node is from what it is computed from, and a write changes that behind its back. Models write in
place to build tables (Qwen3-VL's interleaved mrope), or to put rotated lanes where the others were.
"""

import warnings

from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bridge.passes.common.nodes import ORIGIN, aten, targets_of_writes
from bridge.passes.common.unbinding import select_unbound

# A rotation turns a sign, or multiplies complex numbers; deformable attention samples.
_SIGNS = {
    aten.neg.default,
    aten.neg_.default,
    aten.sub.Tensor,
    aten.sub_.Tensor,
    aten.view_as_complex.default,
    aten.grid_sampler.default,
    aten.grid_sampler_2d.default,
}


def writes(graph: Graph) -> list[Node]:
    """The nodes that write to what they are given."""
    return [node for node in graph.nodes if targets_of_writes(node)]


def may_hide_something(graph: Graph) -> bool:
    """Whether writes may keep a pass from seeing its op: a graph has some, and one of the operators that each such op
    has when it is written out. It spares the others, such as a ResNet with relu_, the time of another trace."""
    return any(node.target in _SIGNS for node in graph.nodes) and bool(writes(graph))


def functional(program: ExportedProgram) -> ExportedProgram:
    """The same program with no write in it, all else as it was, operators included; it does nothing to one that has
    none. Writes to inputs and buffers become results, as torch.export's signature has them."""
    if not writes(program.graph):
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
        found = select_unbound(program).run_decompositions({})
    for node in found.graph.nodes:
        _place(node)
    return found


def _place(node: Node) -> None:
    """Lets a node that stands for a write, which torch gives no line, come from where its newest argument does."""
    if node.op != "call_function" or node.meta.get("stack_trace"):
        return
    for argument in sorted(node.all_input_nodes, reverse=True):
        if argument.meta.get("stack_trace"):
            node.meta.update({key: argument.meta[key] for key in ORIGIN if key in argument.meta})
            return
