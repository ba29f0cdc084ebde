"""Prepares a captured program for torch.onnx: each op stands in it under its own name, or is its definition."""

from collections.abc import Sequence
from typing import Any

from torch.export import ExportedProgram, ExportGraphSignature
from torch.export.graph_signature import ConstantArgument
from torch.fx import Graph, Node

from bridge.config import Config
from bridge.core import foreign
from bridge.core.op import OPS, Op
from bridge.errors import UnsupportedOpError
from bridge.graph import control_flow
from bridge.graph.model_source import model_line, operator_name
from bridge.graph.programs import copied
from bridge.passes.functional import without_mutations
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.native_lowerings import NATIVE
from bridge.tensorrt.network.convertible_graph import check_no_mutation
from bridge.tensorrt.plugins.fields import Call
from bridge.tensorrt.plugins.op_calls import find_calls


def prepared(program: ExportedProgram, config: Config) -> ExportedProgram:
    """A copy of the program to give to torch.onnx.

    Operators that are bound to an op call the op. An op whose lowering is "native" is replaced by its definition.

    ExportError: the model writes to its inputs or buffers. UnsupportedOpError: an operator takes functions, or a call
    cannot be a plugin, or has no other lowering. BuildError: see find_calls.
    """
    functional = without_mutations(program)
    check_no_mutation(functional)
    module, signature = copied(functional)
    _check_control_flow(module.graph)
    natives = _natives(find_calls(module), config)
    _call_ops(module.graph)
    _drop_literals(module.graph, signature)
    module.recompile()
    renamed = functional._update(module, signature)
    return renamed.run_decompositions({op.overload: op.call_reference for op in natives}) if natives else renamed


def _check_control_flow(graph: Graph) -> None:
    for node in graph.nodes:
        if (reason := control_flow.refusal(node.target)) is not None:
            raise UnsupportedOpError(f"{operator_name(node)}: {reason}\n  {model_line(node)}")


def _call_ops(graph: Graph) -> None:
    """Has every node that stands for an op call the op, its arguments by position."""
    targets = foreign.targets()
    for node in list(graph.nodes):
        if node.target in targets:
            op, tensors, attributes = foreign.bind(node.target, node.args, node.kwargs)
            for each in _taking_one_result(node, op):
                each.target, each.args, each.kwargs = op.overload, (*tensors, *attributes.values()), {}
    graph.eliminate_dead_code()


def _taking_one_result(node: Node, op: Op) -> list[Node]:
    """The nodes that stand for the op's results.

    Of an operator with more results than the op the graph takes the first alone (see foreign.reason_against): the nodes
    that take it from the tuple.
    """
    if foreign.num_results(node.target, op) == op.num_outputs:
        return [node]
    return [user for user in node.users if user.args[1] == 0]


def _drop_literals(graph: Graph, signature: ExportGraphSignature) -> None:
    """Makes None of results that are no tensors, such as 2: torch.onnx leaves out None alone."""
    results: Any = graph.output_node().args[0]
    literal = [not isinstance(result, Node) for result in results]
    graph.output_node().args = (tuple(None if skip else result for skip, result in zip(literal, results, strict=True)),)
    for skip, spec in zip(literal, signature.output_specs, strict=True):
        if skip:
            spec.arg = ConstantArgument(spec.arg.name, None)


def _natives(calls: Sequence[Call], config: Config) -> list[Op]:
    """The ops that the setting wants without their plugin. UnsupportedOpError: one has no native lowering."""
    wanted = [call for call in calls if config.lowering_of(call.op.name) == NATIVE]
    for call in wanted:
        if native_lowerings.find(call.op.name) is None:
            raise UnsupportedOpError(
                f'{call.op.name}: lowering "native" is requested, but it has no native lowering; {call.line}\nPass'
                f' lowering={{"{call.op.name}": "plugin"}} for its plugin.'
            )
    return [OPS[name] for name in dict.fromkeys(call.op.name for call in wanted)]
