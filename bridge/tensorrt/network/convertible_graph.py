"""Lowers an exported program to a graph whose nodes all have converters, or says which have none."""

import collections
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from bridge.core.foreign import targets
from bridge.core.tensors import MAX_RANK
from bridge.engine_file import dtypes
from bridge.engine_file.contents import TensorSpec
from bridge.errors import BuildError, ExportError, SpecializedError, UnsupportedOpError
from bridge.graph import control_flow
from bridge.graph.assumptions import checking_lowering
from bridge.graph.model_source import model_line, operator_name
from bridge.graph.symbolic import depends_on_values
from bridge.graph.torch_patches.input_guards import without_input_guards
from bridge.graph.valid_names import with_valid_names
from bridge.graph.value_assertions import without_value_assertions
from bridge.passes.common.unbinding import select_unbound
from bridge.tensorrt.converters import slices
from bridge.tensorrt.converters.attention import expand_attention, give_zeros_without_keys
from bridge.tensorrt.converters.float_extents import make_integer
from bridge.tensorrt.decompositions import ordering, scattering
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.network.decomposing import decompose, explaining_failures
from bridge.tensorrt.network.output_check import check_outputs
from bridge.tensorrt.plugins import op_calls

_SHOWN_LINES = 3  # of each operator without a converter


def lower(program: ExportedProgram, inputs: Mapping[str, TensorSpec], settings: Any) -> GraphModule:
    """Applies torch_tensorrt's decompositions and graph passes, but keeps bridge's ops. inputs: by placeholder.

    Raises:
        ExportError: the model writes to its inputs or buffers, or a decomposition is not valid for all extents.
        UnsupportedOpError: attention with dropout, a product along a dimension of complex values, a complex result.
        SpecializedError: torch or a pass specialised a dynamic dimension.
        BuildError: a decomposition fails or changes the shape of a result, or a pass lost a bridge op.
    """
    from torch_tensorrt.dynamo.lowering import post_lowering
    from torch_tensorrt.dynamo.lowering.passes.remove_detach import remove_detach

    program = with_valid_names(program)
    with warnings.catch_warnings(), checking_lowering(program), without_input_guards(program):
        warnings.simplefilter("ignore", FutureWarning)  # torch copies deprecated classes of its own
        functional = decompose(select_unbound(without_value_assertions(program)))
        check_no_mutation(functional)
        module = _without_writes(functional)
        expected = count_ops(module.graph)
        _check_complex(module.graph)
        expand_attention(module)
        with explaining_failures(module.graph, "lowered"):
            module = post_lowering(remove_detach(module, settings), settings)
        give_zeros_without_keys(module)
        make_integer(module, program.range_constraints)
    check_outputs(program, module)
    counts = count_ops(module.graph)
    if counts != expected:
        raise BuildError(f"lowering changed the number of bridge's ops from {dict(expected)} to {dict(counts)}")
    _check_dynamic(module.graph, inputs)
    return module


def _check_complex(graph: Graph) -> None:
    """UnsupportedOpError: a product of complex values; torch_tensorrt 2.14 multiplies their parts by themselves."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.prod.dim_int):
        if node.meta["val"].is_complex():
            raise UnsupportedOpError(
                f"{operator_name(node)} of complex values has no converter:\n  {model_line(node)}\n"
                "Multiply the values one by one there."
            )


def _check_dynamic(graph: Graph, inputs: Mapping[str, TensorSpec]) -> None:
    """SpecializedError: a dynamic extent is fixed, because a pass read its value."""
    fixed = []
    for node in graph.find_nodes(op="placeholder"):
        spec = inputs.get(node.target)
        for axis, (low, high) in enumerate(zip(spec.min, spec.max, strict=True) if spec else ()):
            extent = node.meta["val"].shape[axis]
            if low != high and (isinstance(extent, int) or extent.node.expr.is_number):
                fixed.append((str(node.target), axis, f"{node.target}.shape[{axis}], {low} to {high}, at {extent}"))
    if fixed:
        raise SpecializedError(
            f"torch fixes {'; '.join(text for *_, text in fixed)}, while it decomposes the model: an operator there"
            " reads the extent's value. Leave the dimension out of dynamic_shapes, or write that line differently.",
            [(name, axis) for name, axis, _ in fixed],
        )


def count_ops(graph: Graph) -> collections.Counter[str]:
    """The number of calls of each of bridge's ops, by its own name or a foreign one.

    Calls that constant folding or dead code elimination may remove do not count.
    """
    names = {target: op.name for target, op in targets().items()}
    live = _reachable(graph.output_node(), lambda node: node.all_input_nodes)
    inputs = graph.find_nodes(op="placeholder")
    varying = set().union(*(_reachable(node, lambda node: node.users) for node in inputs))
    return collections.Counter(names[node.target] for node in live & varying if node.target in names)


def _reachable(start: Node, neighbours: Callable[[Node], Any]) -> set[Node]:
    seen, pending = {start}, [start]
    while pending:
        unseen = [node for node in neighbours(pending.pop()) if node not in seen]
        seen.update(unseen)
        pending += unseen
    return seen


def check_no_mutation(program: ExportedProgram) -> None:
    """ExportError: a write outlives the call. Buffers that every call overwrites before reading are allowed."""
    unread = _overwritten_weights(program)
    mutated = {spec.target: spec.arg.name for spec in _mutations(program) if spec.target not in unread}
    if mutated:
        nodes = {node.name: node for node in program.graph.nodes}
        lines = "".join(
            f"\n  {model_line(nodes[name])}" for name in mutated.values() if nodes[name].op == "call_function"
        )
        raise ExportError(
            f"the model writes to {', '.join(map(repr, mutated))}; an engine only reads its inputs and weights."
            f"{lines}\n"
            "Return the new value as an output instead, and write no in-place operation on an input or a buffer."
        )


def _mutations(program: ExportedProgram) -> list[Any]:
    return [spec for spec in program.graph_signature.output_specs if spec.kind.name.endswith("_MUTATION")]


def _overwritten_weights(program: ExportedProgram) -> set[str]:
    """The weights that a functional program overwrites without reading them."""
    signature = program.graph_signature
    weights = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    return {weights[name] for name in weights if all(_overwrites(user, nodes[name]) for user in nodes[name].users)}


def _overwrites(user: Node, buffer: Node) -> bool:
    """Whether a node is copy(buffer, value), which reads only the buffer's shape and dtype."""
    return user.target is torch.ops.aten.copy.default and user.args[0] is buffer and user.args[1] is not buffer


def _without_writes(program: ExportedProgram) -> GraphModule:
    """The program as a module that does not write to its buffers."""
    specs, writes = program.graph_signature.output_specs, _mutations(program)
    if writes:
        kept = [index for index, spec in enumerate(specs) if spec not in writes]
        results = program.graph.output_node().args[0]
        program.graph.output_node().args = (tuple(results[index] for index in kept),)
        program.graph_signature.output_specs = [specs[index] for index in kept]
        program.graph.eliminate_dead_code()
        program.graph_module.recompile()
    return program.module(check_guards=False)


def check_supported(module: GraphModule, flavour: Flavour) -> None:
    """UnsupportedOpError: no converter accepts some operators; all are named, with the lines that use them."""
    refused: dict[str, list[Node]] = collections.defaultdict(list)
    reasons: dict[str, str] = {}
    for node in module.graph.nodes:
        reason = refusal(node)
        if node.target is operator.getitem and operator_name(node.args[0]) in refused:
            continue  # an output of a refused operator
        if reason is not None:
            refused[operator_name(node)].append(node)
            reasons.setdefault(operator_name(node), reason)
    if refused:
        raise UnsupportedOpError(
            f"{flavour.name} {flavour.version} cannot run {len(refused)} of the model's operators:\n"
            + "\n".join(_uses_text(name, nodes, reasons[name]) for name, nodes in refused.items())
            + "\nRewrite these lines, with one of bridge's ops (`bridge ops`) where it fits; or let Inductor write"
            " kernels for them (the setting generate=True); or make an op of them in a package of yours (`bridge new op"
            " acme::corr`), or give an operator that has its kernel a plugin (bridge.bind)."
            ' torch.compile(model, backend="bridge", options={"fallback": True}) runs them in PyTorch.'
            " docs/unsupported.md compares these ways."
        )


def refusal(node: Node) -> str | None:
    """Why no converter accepts a node; None if one does."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    if node.op not in ("call_function", "call_method", "call_module"):
        return None
    for rule in (_rank_refusal, _operator_refusal, slices.refusal, ordering.refusal, scattering.refusal):
        if (reason := rule(node)) is not None:
            return reason
    try:
        converter = DYNAMO_CONVERTERS.get(node)
    except Exception as error:  # a converter's validator, torch_tensorrt's or a user's, fails
        return f"its converter cannot tell whether it takes these arguments: {type(error).__name__}: {error}"
    if converter is None:
        if node.target in targets() and (reason := op_calls.plugin_refusal(node)) is not None:
            return reason
        has_converter = DYNAMO_CONVERTERS.get_unvalidated(node.target) is not None
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if has_converter and dtype is not None and dtypes.from_torch(dtype) is None:
            return f"its result is {dtype}, {dtypes.absence(dtype)}"
        if _selects_by_values(node):
            return _BY_VALUES
        return "its converter refuses these arguments or shapes" if has_converter else "it has no converter"
    data_dependent = len(converter) > 2 and converter[2].get("requires_output_allocator", False)
    return _BY_VALUES if data_dependent else None


_BY_VALUES = (
    "the shape of its result depends on values, not on shapes. Keep all elements and mark those that do not count, such"
    " as boxes before nms by torch.where(scores > threshold, scores, -inf), and drop them after the engine; or have"
    ' PyTorch run it between engines: torch.compile(model, backend="bridge", options={"fallback": True})'
)


def _selects_by_values(node: Node) -> bool:
    """Whether a result has an unbacked extent and no argument has one, as with a selection by a mask."""
    input_depends, output_depends = (
        any(depends_on_values(extent) for tensor in op_calls.tensors_of(nodes) for extent in tensor.shape)
        for nodes in (node.all_input_nodes, [node])
    )
    return output_depends and not input_depends


def _rank_refusal(node: Node) -> str | None:
    ranks = [tensor.dim() for tensor in op_calls.tensors_of([node, *node.all_input_nodes])]
    return (
        f"it has a tensor of {max(ranks)} dimensions; TensorRT takes {MAX_RANK}"
        if max(ranks, default=0) > MAX_RANK
        else None
    )


def _operator_refusal(node: Node) -> str | None:
    """Why no engine can hold an operator at all, or None."""
    return _NOT_IN_ENGINES.get(node.target) or control_flow.refusal(node.target)


_NOT_IN_ENGINES: dict[Any, str] = {
    torch.ops.aten._local_scalar_dense.default: "it converts a tensor's value to a Python number (.item(), float(),"
    " bool()); return the tensor, or compute with it",
    torch.ops.aten.nonzero.default: _BY_VALUES,
    torch.ops.aten.rand.default: "it draws random numbers; take them as an input",
    torch.ops.aten.randn.default: "it draws random numbers; take them as an input",
    torch.ops.aten.rand_like.default: "it draws random numbers; take them as an input",
    torch.ops.aten.randn_like.default: "it draws random numbers; take them as an input",
    torch.ops.aten.bernoulli.default: "it draws random numbers; take them as an input",
}


def _uses_text(name: str, nodes: list[Node], reason: str) -> str:
    lines = list(dict.fromkeys(map(model_line, nodes)))
    more = [f"and {len(lines) - _SHOWN_LINES} lines more"] if len(lines) > _SHOWN_LINES else []
    locations = "".join(f"\n      {line}" for line in lines[:_SHOWN_LINES] + more)
    return f"  {name} ({len(nodes)} {'use' if len(nodes) == 1 else 'uses'}): {reason}{locations}"
