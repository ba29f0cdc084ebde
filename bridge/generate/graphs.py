"""Replaces the operators of a graph that become generated plugins."""

from collections.abc import Callable
from typing import Any

from torch.fx import Graph, Node

from bridge.base import log
from bridge.errors import BridgeError, BuildError, UnsupportedOpError
from bridge.generate import build, folders
from bridge.generate.generated_op import GeneratedOp, define
from bridge.generate.program import Instance
from bridge.generate.tracing.calls import call_of
from bridge.generate.tracing.raw_launches import call_of_launch, is_launch, set_results
from bridge.generate.tracing.regions import cover
from bridge.generate.tracing.trace import Body, Call
from bridge.graph.model_source import model_line

Refused = Callable[[Node, BridgeError], None]
Check = Callable[[GeneratedOp, Call], None]


def generate(
    graph: Graph, target: str, wanted: Callable[[Node], Body | None], refused: Refused, check: Check | None = None
) -> None:
    """Has nodes call generated ops, whose libraries it builds for a target.

    wanted: gives the body of a node's operator, or None for a node that stays. refused: is told of a node that cannot
    become a plugin, and stays unless it raises; the error's message has the model's line. check: raises a BuildError
    for an op that is not right.
    """
    known: list[tuple[Call, GeneratedOp]] = []
    for node, body in _chosen(graph, wanted):
        try:
            _replace(node, body, target, known, check)
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
    node: Node, body: Body | None, target: str, known: list[tuple[Call, GeneratedOp]], check: Check | None
) -> None:
    """Has a node call the generated op of its call, which may be known from another node. body: None for a launch."""
    call, nodes = _call(node, body)
    op = next((op for other, op in known if other == call), None)
    if op is None:
        op = _op(call, target, call.body if body is None else node.target)
        if check is not None:
            check(op, call)
        known.append((call, op))
    if body is None:
        set_results(node)
    node.target, node.args, node.kwargs = op.overload, tuple(nodes), {}


def _op(call: Call, target: str, operator: Any) -> GeneratedOp:
    """The generated op of a call. operator: what it calls in PyTorch."""
    instance = _instance(call)
    found = folders.holding(_name(instance), target, only_shipped=True)
    folder = build.build([instance], [target]) if found is None else found.path

    def call_original(*tensors: Any) -> Any:
        return call.computed(operator, tensors)

    return define(_name(instance), call.operator, call.names, len(instance.outputs), folder, call_original, instance)


def _instance(call: Call) -> Instance:
    with log.step(f"tracing {call.operator}") as note:
        instance = cover(call)
        note(f"{len(instance.regions)} versions by extents")
    return instance


def _name(instance: Instance) -> str:
    return f"{build.namespace_of(instance)}::{build.plugin_name(instance)}"
