"""fallback=True: what engines can run goes into engines, the rest runs in PyTorch, and a report says which is which.

Of a detector, backbone, heads and decoded boxes are one engine, up to the first line that takes elements by their
values: a mask, torch.where with one argument, nonzero, nms. There torch.compile ends the graph; that line runs in
PyTorch, and what follows it gets engines of its own. bridge.report names the line. By bridge.compile, or with
torch._dynamo.config.capture_dynamic_output_shape_ops, nms is within the engine.
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
from bridge.doors.pipeline import compile_module, lowered
from bridge.doors.session import Session
from bridge.engine.compiled import CompiledModule
from bridge.engine_file.contents import TensorSpec
from bridge.errors import BridgeError
from bridge.graph.model_source import model_line, operator_name
from bridge.graph.shape_profile import input_spec
from bridge.tensorrt.network.convertible_graph import refusal
from bridge.tensorrt.plugins.op_calls import lacking_dtype, tensor_of, tensors_of

_LEAST_NODES = 3  # of an engine, unless it holds one of bridge's ops


def compile_parts(
    program: ExportedProgram,
    specs: Mapping[str, TensorSpec],
    session: Session,
    metadata: Mapping[str, Any],
    record: reporting.Graph,
) -> Callable[..., Any]:
    """What runs a program, partly in engines; call it within `session.converting()`.

    Engines, and the nodes that are left to PyTorch, are added to `record`.
    ExportError: the program writes to its inputs or buffers.
    """
    module, settings = lowered(program, specs)
    reasons = _reasons(module)
    for call in _partition(module, reasons):
        part = module.get_submodule(str(call.target))
        assert isinstance(part, GraphModule)
        single = isinstance(part.graph.output_node().args[0], Node)
        _sink(module, call, part)
        ranges = program.range_constraints
        try:
            inputs = {n.name: input_spec(n.name, tensor_of(part, n), ranges) for n in _placeholders(part.graph)}
            built = compile_module(part, inputs, session, settings, metadata)
        except BridgeError as error:
            module.set_submodule(str(call.target), _Part(part, single))
            why = f"its engine cannot be built: {str(error).splitlines()[0]}"
            record.torch_nodes += [_torch_node(node, why) for node in part.graph.nodes if _computes(node)]
            continue
        record.engines.append(built.file)
        record.from_cache.append(built.from_cache)
        module.set_submodule(
            str(call.target),
            _Part(CompiledModule(built.file, from_cache=built.from_cache, **session.config.runtime), single),
        )
    left = {node.name for node in module.graph.nodes}  # fusing parts copies nodes: names tell them apart
    record.torch_nodes += [_torch_node(n, why) for n, why in reasons.items() if n.name in left and _computes(n)]
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class _Part(nn.Module):
    """A part of a graph. It returns a tuple, or, where the graph takes one tensor from it, that."""

    def __init__(self, run: Callable[..., Any], single: bool) -> None:
        super().__init__()
        self._run = run
        self._single = single

    def forward(self, *args: Tensor) -> Any:
        results = self._run(*args)
        return results[0] if self._single else results


def _reasons(module: GraphModule) -> dict[Node, str]:
    """Why nodes run in PyTorch."""
    reasons: dict[Node, str] = {}
    for node in module.graph.nodes:
        if node.op not in ("call_function", "call_method", "call_module"):
            continue
        if node.target is operator.getitem and node.args[0] in reasons:
            reasons[node] = reasons[node.args[0]]
            continue
        why = lacking_dtype(node) or refusal(node)
        if why is not None:
            reasons[node] = why
    return reasons


class _Support(OperatorSupportBase):
    """Nodes that an engine can run. Numbers stay outside; an engine that needs one computes it again."""

    def __init__(self, reasons: Mapping[Node, str]) -> None:
        self._reasons = reasons

    def is_node_supported(self, submodules: Mapping[str, nn.Module], node: Node) -> bool:
        return node.op == "call_function" and node not in self._reasons and bool(tensors_of([node]))


def _partition(module: GraphModule, reasons: dict[Node, str]) -> list[Node]:
    """Makes a submodule of each part that engines run; returns the calls of them."""
    partitioner = CapabilityBasedPartitioner(module, _Support(reasons), allows_single_node_partition=True)
    kept = []
    for part in partitioner.propose_partitions():
        if _worthwhile(part):
            kept.append(part)
        else:
            count = len(part.nodes)
            reasons |= dict.fromkeys(part.nodes, f"a block of {count} operators is too small for an engine")
    partitioner.fuse_partitions(kept, prefix="engine_")
    return [node for node in module.graph.find_nodes(op="call_module") if str(node.target).startswith("engine_")]


def _worthwhile(part: Partition) -> bool:
    return len(part.nodes) >= _LEAST_NODES or any(node.target in targets() for node in part.nodes)


def _sink(module: GraphModule, call: Node, part: GraphModule) -> None:
    """Makes a part depend on tensors alone: weights and what computes numbers move into it. It returns a tuple."""
    taken: list[tuple[Any, Node]] = list(zip(call.args, _placeholders(part.graph), strict=True))
    inside: dict[Node, Node] = {outer: inner for outer, inner in taken if _is_input(outer)}
    extra: list[Node] = []
    top = _after_placeholders(part.graph)
    for _, inner in taken:
        top.prepend(inner)

    def copy(outer: Node) -> Node:
        if outer not in inside:
            inside[outer] = _copy(module, part, outer, top, copy, extra)
        return inside[outer]

    for outer, inner in taken:
        if not _is_input(outer):
            inner.replace_all_uses_with(copy(outer))
            part.graph.erase_node(inner)
    call.args = (*(outer for outer, _ in taken if _is_input(outer)), *extra)
    output = part.graph.output_node()
    if isinstance(output.args[0], Node):
        output.args = ((output.args[0],),)
    part.graph.lint()
    part.recompile()


def _copy(
    module: GraphModule, part: GraphModule, outer: Node, top: Node, copy: Callable[[Node], Node], extra: list[Node]
) -> Node:
    """A node of the graph within a part: weights and numbers are copied, another tensor becomes an input."""
    if outer.op == "get_attr":
        name = f"weight_{outer.name}"
        part.register_buffer(name, operator.attrgetter(str(outer.target))(module))
        with part.graph.inserting_before(top):
            inner = part.graph.get_attr(name)
    elif _is_input(outer):
        extra.append(outer)
        with part.graph.inserting_before(_after_placeholders(part.graph)):
            inner = part.graph.placeholder(f"{outer.name}_shape")
    else:
        for argument in outer.all_input_nodes:
            copy(argument)
        with part.graph.inserting_before(top):
            inner = part.graph.node_copy(outer, copy)
    inner.meta = dict(outer.meta)
    return inner


def _after_placeholders(graph: Graph) -> Node:
    return next(node for node in graph.nodes if node.op != "placeholder")


def _placeholders(graph: Graph) -> list[Node]:
    return list(graph.find_nodes(op="placeholder"))


def _is_input(outer: Any) -> bool:
    """Whether a part takes it as a tensor; weights and numbers it holds or computes itself."""
    return outer.op != "get_attr" and isinstance(outer.meta.get("val"), Tensor)


def _computes(node: Node) -> bool:
    return node.op not in ("placeholder", "get_attr", "output") and node.target is not operator.getitem


def _torch_node(node: Node, reason: str) -> reporting.TorchNode:
    return reporting.TorchNode(operator_name(node), reason, model_line(node))
