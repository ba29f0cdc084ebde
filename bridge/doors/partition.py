"""fallback=True: engines run what they can, PyTorch runs the rest, and bridge.report lists both.

torch.compile breaks the graph at operators whose output shape depends on values: masks, torch.where with one argument,
nonzero, nms. In a detector the first engine holds backbone, heads and decoding; the operator runs in PyTorch, and the
code after it gets engines of its own. nms stays in the engine with bridge.compile, or with
torch._dynamo.config.capture_dynamic_output_shape_ops.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner, Partition
from torch.fx.passes.operator_support import OperatorSupportBase

from bridge.core.foreign import targets
from bridge.doors import reporting
from bridge.doors.generation import warn_of_refusal, with_marked_generated
from bridge.doors.lowered_graph import lowered
from bridge.doors.pipeline import compile_module
from bridge.doors.session import Session
from bridge.engine.compiled import CompiledModule
from bridge.engine_file.contents import TensorSpec
from bridge.errors import BridgeError
from bridge.graph.model_source import model_line, operator_name
from bridge.graph.shape_profile import input_spec
from bridge.tensorrt.network.convertible_graph import refusal
from bridge.tensorrt.plugins.op_calls import dtype_refusal, tensor_of, tensors_of

_MIN_NODES = 3  # of an engine without any of bridge's ops


def compile_parts(
    program: ExportedProgram,
    specs: Mapping[str, TensorSpec],
    session: Session,
    metadata: Mapping[str, Any],
    record: reporting.Graph,
) -> Callable[..., Any]:
    """Compiles the parts of a program that engines can run; call it within `session.converting()`.

    The result runs the whole program. Engines and nodes that run in PyTorch are added to `record`.
    ExportError: the program writes to its inputs or buffers.
    """
    program = with_marked_generated(program, session, warn_of_refusal)
    module, settings = lowered(program, specs)
    reasons = _reasons(module)
    for call in _partition(module, reasons):
        part = module.get_submodule(str(call.target))
        assert isinstance(part, GraphModule)
        single = isinstance(part.graph.output_node().args[0], Node)
        _make_self_contained(module, call, part)
        ranges = program.range_constraints
        try:
            inputs = {n.name: input_spec(n.name, tensor_of(part, n), ranges) for n in _placeholders(part.graph)}
            result = compile_module(part, inputs, session, settings, metadata)
        except BridgeError as error:
            module.set_submodule(str(call.target), _Part(part, single))
            why = f"its engine cannot be built: {str(error).splitlines()[0]}"
            record.torch_nodes += [_torch_node(node, why) for node in part.graph.nodes if _is_operator(node)]
            continue
        record.engines.append(result.file)
        record.from_cache.append(result.from_cache)
        module.set_submodule(
            str(call.target),
            _Part(CompiledModule(result.file, from_cache=result.from_cache, **session.config.runtime), single),
        )
    remaining = {node.name for node in module.graph.nodes}  # fusing copies nodes, so compare names
    record.torch_nodes += [_torch_node(n, why) for n, why in reasons.items() if n.name in remaining and _is_operator(n)]
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class _Part(nn.Module):
    """A part of a graph; it returns a tuple, or a single tensor if the graph expects one."""

    def __init__(self, run: Callable[..., Any], single: bool) -> None:
        super().__init__()
        self._run = run
        self._single = single

    def forward(self, *args: Tensor) -> Any:
        results = self._run(*args)
        return results[0] if self._single else results


def _reasons(module: GraphModule) -> dict[Node, str]:
    """The nodes that must run in PyTorch, with the reasons."""
    reasons: dict[Node, str] = {}
    for node in module.graph.nodes:
        if node.op not in ("call_function", "call_method", "call_module"):
            continue
        if node.target is operator.getitem and node.args[0] in reasons:
            reasons[node] = reasons[node.args[0]]
            continue
        why = dtype_refusal(node) or refusal(node)
        if why is not None:
            reasons[node] = why
    return reasons


class _EngineSupport(OperatorSupportBase):
    """The nodes that an engine can run. Scalars stay outside: an engine that needs one recomputes it."""

    def __init__(self, reasons: Mapping[Node, str]) -> None:
        self._reasons = reasons

    def is_node_supported(self, submodules: Mapping[str, nn.Module], node: Node) -> bool:
        return node.op == "call_function" and node not in self._reasons and bool(tensors_of([node]))


def _partition(module: GraphModule, reasons: dict[Node, str]) -> list[Node]:
    """Makes a submodule of each part that an engine is to run; returns the nodes that call them."""
    partitioner = CapabilityBasedPartitioner(module, _EngineSupport(reasons), allows_single_node_partition=True)
    kept = []
    for part in partitioner.propose_partitions():
        if _is_worth_an_engine(part):
            kept.append(part)
        else:
            count = len(part.nodes)
            reasons |= dict.fromkeys(part.nodes, f"a block of {count} operators is too small for an engine")
    partitioner.fuse_partitions(kept, prefix="engine_")
    return [node for node in module.graph.find_nodes(op="call_module") if str(node.target).startswith("engine_")]


def _is_worth_an_engine(part: Partition) -> bool:
    return len(part.nodes) >= _MIN_NODES or any(node.target in targets() for node in part.nodes)


def _make_self_contained(module: GraphModule, call: Node, part: GraphModule) -> None:
    """Makes a part take tensors alone and return a tuple. Weights and the nodes of scalars are copied into it."""
    inputs_of_part: list[tuple[Any, Node]] = list(zip(call.args, _placeholders(part.graph), strict=True))
    counterparts: dict[Node, Node] = {outer: inner for outer, inner in inputs_of_part if _is_input(outer)}
    added_inputs: list[Node] = []
    body_start = _after_placeholders(part.graph)
    for _, inner in inputs_of_part:
        body_start.prepend(inner)

    def copy(outer: Node) -> Node:
        if outer not in counterparts:
            counterparts[outer] = _copy_into_part(module, part, outer, body_start, copy, added_inputs)
        return counterparts[outer]

    for outer, inner in inputs_of_part:
        if not _is_input(outer):
            inner.replace_all_uses_with(copy(outer))
            part.graph.erase_node(inner)
    call.args = (*(outer for outer, _ in inputs_of_part if _is_input(outer)), *added_inputs)
    output = part.graph.output_node()
    if isinstance(output.args[0], Node):
        output.args = ((output.args[0],),)
    part.graph.lint()
    part.recompile()


def _copy_into_part(
    module: GraphModule,
    part: GraphModule,
    outer: Node,
    body_start: Node,
    copy: Callable[[Node], Node],
    added_inputs: list[Node],
) -> Node:
    """The node in a part for a node of the graph. Weights and scalars are copied; other tensors become inputs."""
    if outer.op == "get_attr":
        name = f"weight_{outer.name}"
        part.register_buffer(name, operator.attrgetter(str(outer.target))(module))
        with part.graph.inserting_before(body_start):
            inner = part.graph.get_attr(name)
    elif _is_input(outer):
        added_inputs.append(outer)
        with part.graph.inserting_before(_after_placeholders(part.graph)):
            inner = part.graph.placeholder(f"{outer.name}_shape")
    else:
        for argument in outer.all_input_nodes:
            copy(argument)
        with part.graph.inserting_before(body_start):
            inner = part.graph.node_copy(outer, copy)
    inner.meta = dict(outer.meta)
    return inner


def _after_placeholders(graph: Graph) -> Node:
    return next(node for node in graph.nodes if node.op != "placeholder")


def _placeholders(graph: Graph) -> list[Node]:
    return list(graph.find_nodes(op="placeholder"))


def _is_input(outer: Any) -> bool:
    """Whether a value is an input of a part. Weights and scalars are not: they are copied into it."""
    return outer.op != "get_attr" and isinstance(outer.meta.get("val"), Tensor)


def _is_operator(node: Node) -> bool:
    return node.op not in ("placeholder", "get_attr", "output") and node.target is not operator.getitem


def _torch_node(node: Node, reason: str) -> reporting.TorchNode:
    return reporting.TorchNode(operator_name(node), reason, model_line(node))
