"""From an exported program to a graph in which every node has a converter, or an error that says which has none."""

import collections
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from bridge.assumptions import asked_in_lowering
from bridge.errors import BuildError, ExportError, UnsupportedOpError
from bridge.foreign import targets
from bridge.source import model_line, operator_name
from bridge.tensorrt import calls, dtypes, slices
from bridge.tensorrt.attention import expand_attention
from bridge.tensorrt.decompositions import decompositions
from bridge.tensorrt.engine_file import TensorSpec
from bridge.tensorrt.flavour import Flavour
from bridge.tensorrt.float_extents import make_integer
from bridge.tensorrt.promotion import promote

_SHOWN_LINES = 3  # of each operator without a converter


def lower(program: ExportedProgram, inputs: Mapping[str, TensorSpec], settings: Any) -> GraphModule:
    """torch_tensorrt's decompositions and graph passes, with bridge's ops left whole. inputs: by placeholder's name.

    Raises:
        ExportError: the model writes to its inputs or buffers, or an operator is taken apart in a way that does not
            hold for all extents.
        UnsupportedOpError: attention with dropout.
        BuildError: a pass lost a bridge op, or fixed a dynamic dimension.
    """
    from torch_tensorrt.dynamo.lowering import post_lowering
    from torch_tensorrt.dynamo.lowering.passes.remove_detach import remove_detach

    with warnings.catch_warnings(), asked_in_lowering(program):
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
        decomposed = program.run_decompositions(decompositions())
        _refuse_mutation(decomposed)
        module = decomposed.module(check_guards=False)
        expected = count_ops(module.graph)
        expand_attention(module)
        module = post_lowering(remove_detach(module, settings), settings)
        make_integer(module, program.range_constraints)
        promote(module)
    found = count_ops(module.graph)
    if found != expected:
        raise BuildError(f"lowering changed the number of bridge's ops from {dict(expected)} to {dict(found)}")
    _check_dynamic(module.graph, inputs)
    return module


def _check_dynamic(graph: Graph, inputs: Mapping[str, TensorSpec]) -> None:
    """A pass that looks at an extent's value makes torch take the extent for fixed from then on."""
    for node in graph.find_nodes(op="placeholder"):
        spec = inputs.get(node.target)
        for axis, (low, high) in enumerate(zip(spec.min, spec.max, strict=True) if spec else ()):
            extent = node.meta["val"].shape[axis]
            if low != high and (isinstance(extent, int) or extent.node.expr.is_number):
                raise BuildError(f"lowering fixed dimension {axis} of {node.target!r}, {low} to {high}, to {extent}")


def count_ops(graph: Graph) -> collections.Counter[str]:
    """How often each bridge op stands in a graph, under its name or a foreign one, leaving out those that constant
    folding or dead code may remove."""
    names = {target: op.name for target, op in targets().items()}
    live = _reached(graph.output_node(), lambda node: node.all_input_nodes)
    inputs = graph.find_nodes(op="placeholder")
    varying = set().union(*(_reached(node, lambda node: node.users) for node in inputs))
    return collections.Counter(names[node.target] for node in live & varying if node.target in names)


def _reached(start: Node, neighbours: Callable[[Node], Any]) -> set[Node]:
    seen, pending = {start}, [start]
    while pending:
        found = [node for node in neighbours(pending.pop()) if node not in seen]
        seen.update(found)
        pending += found
    return seen


def _refuse_mutation(program: ExportedProgram) -> None:
    mutated = [spec.target for spec in program.graph_signature.output_specs if spec.kind.name.endswith("_MUTATION")]
    if mutated:
        raise ExportError(
            f"the model writes to {', '.join(map(repr, mutated))}; an engine only reads its inputs and weights."
            " Return the new value as an output instead, and write no in-place operation on an input or a buffer."
        )


def check_supported(module: GraphModule, flavour: Flavour) -> None:
    """Raises UnsupportedOpError naming every operator that no converter accepts, with the model's lines that use it."""
    refused: dict[str, list[Node]] = collections.defaultdict(list)
    reasons: dict[str, str] = {}
    for node in module.graph.nodes:
        reason = refusal(node)
        if node.target is operator.getitem and operator_name(node.args[0]) in refused:
            continue  # an output of an operator that is refused itself
        if reason is not None:
            refused[operator_name(node)].append(node)
            reasons.setdefault(operator_name(node), reason)
    if refused:
        raise UnsupportedOpError(
            f"{flavour.name} {flavour.version} cannot run {len(refused)} of the model's operators:\n"
            + "\n".join(_describe(name, nodes, reasons[name]) for name, nodes in refused.items())
            + "\nRewrite these lines with other operations, or make an op of them with @bridge.op and a kernel."
        )


def refusal(node: Node) -> str | None:
    """Why no converter accepts a node; None where one does."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    if node.op not in ("call_function", "call_method", "call_module"):
        return None
    if (reason := slices.refuse(node)) is not None:
        return reason
    converter = DYNAMO_CONVERTERS.get(node)
    if converter is None:
        if node.target in targets() and (reason := calls.refuse(node)) is not None:
            return reason
        known = DYNAMO_CONVERTERS.get_unvalidated(node.target) is not None
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if known and dtype is not None and dtypes.from_torch(dtype) is None:
            return f"its result is {dtype}, which TensorRT lacks"
        return "its converter refuses these arguments or shapes" if known else "it has no converter"
    data_dependent = len(converter) > 2 and converter[2].get("requires_output_allocator", False)
    return "the shape of its result depends on values, not on shapes" if data_dependent else None


def _describe(name: str, nodes: list[Node], reason: str) -> str:
    lines = list(dict.fromkeys(map(model_line, nodes)))
    more = [f"and {len(lines) - _SHOWN_LINES} lines more"] if len(lines) > _SHOWN_LINES else []
    places = "".join(f"\n      {line}" for line in lines[:_SHOWN_LINES] + more)
    return f"  {name} ({len(nodes)} {'use' if len(nodes) == 1 else 'uses'}): {reason}{places}"
