"""Functionalised programs: each in-place write becomes a node with a new tensor as its value.

A pass proves what a node computes from its inputs. An in-place write changes the tensor without a new node, so the
proof would be wrong. Models write in place to build tables (Qwen3-VL's interleaved mrope), or to store rotated lanes.
"""

import warnings

from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bridge.passes.common.nodes import ORIGIN, aten, mutated_arguments
from bridge.passes.common.unbinding import select_unbound

# A rotation negates, subtracts or multiplies complex numbers; deformable attention samples.
_MARKERS = {
    aten.neg.default,
    aten.neg_.default,
    aten.sub.Tensor,
    aten.sub_.Tensor,
    aten.view_as_complex.default,
    aten.grid_sampler.default,
    aten.grid_sampler_2d.default,
}


def mutations(graph: Graph) -> list[Node]:
    """The nodes that write to one of their arguments."""
    return [node for node in graph.nodes if mutated_arguments(node)]


def may_hide_ops(graph: Graph) -> bool:
    """Whether in-place writes may hide an op from its pass.

    Functionalising takes another trace. Graphs without the operators that an op consists of, such as a ResNet with
    relu_, are spared it.
    """
    return any(node.target in _MARKERS for node in graph.nodes) and bool(mutations(graph))


def without_mutations(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place writes, its other operators unchanged; the program itself if it has none.

    Writes to inputs and buffers become results, as torch.export's signature declares them.
    """
    return functionalised(program) if mutations(program.graph) else program


def functionalised(program: ExportedProgram) -> ExportedProgram:
    """As `without_mutations`, whether or not there is a write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
        functional = select_unbound(program).run_decompositions({})
    for node in functional.graph.nodes:
        _inherit_origin(node)
    return functional


def _inherit_origin(node: Node) -> None:
    """Gives a node that replaces a write, for which torch records no line, the origin of its latest argument."""
    if node.op != "call_function" or node.meta.get("stack_trace"):
        return
    for argument in sorted(node.all_input_nodes, reverse=True):
        if argument.meta.get("stack_trace"):
            node.meta.update({key: argument.meta[key] for key in ORIGIN if key in argument.meta})
            return
