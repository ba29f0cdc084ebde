"""Replaces the operators of a graph that become generated plugins."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.fx import Graph, Node

from bridge.base import log
from bridge.errors import BridgeError, BuildError, UnsupportedOpError
from bridge.generate import build, folders
from bridge.generate.configurations import ALL, Selection, with_chosen
from bridge.generate.generated_op import GeneratedOp, define
from bridge.generate.program import Instance
from bridge.generate.tracing.calls import call_of
from bridge.generate.tracing.raw_launches import call_of_launch, is_launch, set_results
from bridge.generate.tracing.regions import cover
from bridge.generate.tracing.trace import Body, Call
from bridge.graph.model_source import model_line

Original = Callable[..., Any]
Refused = Callable[[Node, BridgeError], None]
Check = Callable[[GeneratedOp, Call], None]


def generate(
    graph: Graph,
    target: str,
    wanted: Callable[[Node], Body | None],
    refused: Refused,
    selection: Selection = ALL,
    check: Check | None = None,
) -> None:
    """Has nodes call generated ops, whose libraries it builds for a target.

    wanted: gives the body of a node's operator, or None for a node that stays. refused: is told of a node that cannot
    become a plugin, and stays unless it raises; the error's message has the model's line. selection: of
    configurations of autotuned kernels. check: raises a BuildError for an op that is not right.
    """
    known: list[tuple[Call, GeneratedOp]] = []

    def make(call: Call, operator: Any) -> GeneratedOp:
        op = _op(call, target, operator, selection)
        if check is not None:
            check(op, call)
        return op

    for node, body in _chosen(graph, wanted):
        try:
            _replace(node, body, known, make)
        except (UnsupportedOpError, BuildError) as error:
            refused(node, type(error)(f"{error}\n  {model_line(node)}"))


def instances(graph: Graph, wanted: Callable[[Node], Body | None]) -> list[Instance]:
    """What `generate` would make plugins of; UnsupportedOpError: an operator cannot become one."""
    return [_instance(_call(node, body)[0]) for node, body in _chosen(graph, wanted)]


def _chosen(graph: Graph, wanted: Callable[[Node], Body | None]) -> list[tuple[Node, Body | None]]:
    """The nodes that become plugins, each with the body of its operator; None for a launch."""
    calls = [each for each in graph.nodes if each.op == "call_function"]
    bodies = [(node, None if is_launch(node) else wanted(node)) for node in calls]
    return [(node, body) for node, body in bodies if body is not None or is_launch(node)]


def _call(node: Node, body: Body | None) -> tuple[Call, list[Node]]:
    return call_of_launch(node) if body is None else call_of(node, body)


def _replace(
    node: Node, body: Body | None, known: list[tuple[Call, GeneratedOp]], make: Callable[[Call, Any], GeneratedOp]
) -> None:
    """Has a node call the generated op of its call, which may be known from another node. body: None for a launch.

    make: makes the op of a call, of what it calls in PyTorch.
    """
    call, nodes = _call(node, body)
    op = next((op for other, op in known if other == call), None)
    if op is None:
        op = make(call, call.body if body is None else node.target)
        known.append((call, op))
    if body is None:
        set_results(node)
    node.target, node.args, node.kwargs = op.overload, tuple(nodes), {}


def _op(call: Call, target: str, operator: Any, selection: Selection) -> GeneratedOp:
    """The generated op of a call. operator: what it calls in PyTorch."""

    def call_original(*tensors: Any) -> Any:
        return call.computed(operator, tensors)

    instance = _instance(call)
    # Where a library was shipped with all configurations, it is used as it is: it goes with the engine.
    wanted = with_chosen(instance, selection.chosen)
    for each in [wanted, instance] if selection.chosen else [wanted]:
        found = folders.holding(_name(each), target, only_shipped=True)
        if found is not None:
            return _defined(each, call.names, found.path, call_original)
    return built_op(wanted, call.names, target, call_original, selection.tactics)


def built_op(instance: Instance, tensors: Sequence[str], target: str, original: Original, tactics: bool) -> GeneratedOp:
    """The op of an instance, whose library is built for a target.

    tensors: their names. original: see GeneratedOp. tactics: see `build`.
    UnsupportedOpError, BuildError: it cannot become a plugin.
    """
    return _defined(instance, tensors, build.build([instance], [target], tactics=tactics), original)


def _defined(instance: Instance, tensors: Sequence[str], folder: Path, original: Original) -> GeneratedOp:
    return define(_name(instance), instance.operator, tensors, len(instance.outputs), folder, original, instance)


def _instance(call: Call) -> Instance:
    with log.step(f"tracing {call.operator}") as note:
        instance = cover(call)
        note(f"{len(instance.regions)} versions by extents")
    return instance


def _name(instance: Instance) -> str:
    return f"{build.namespace_of(instance)}::{build.plugin_name(instance)}"
