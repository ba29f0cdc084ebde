"""Which operators of a model get generated plugins: those that the user marked, and on request all that lack one."""

import functools
from collections.abc import Callable, Collection
from typing import Any

from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bridge.base.log import logger
from bridge.core import foreign
from bridge.core.op import Op
from bridge.doors.comparison.on_gpu import compare
from bridge.doors.session import Session
from bridge.errors import BridgeError
from bridge.generate import graphs
from bridge.generate.configurations import ALL, Selection
from bridge.generate.generated_op import GeneratedOp
from bridge.generate.program import Instance
from bridge.generate.tracing import raw_launches
from bridge.generate.tracing.calls import body_of
from bridge.passes.functional import functionalised
from bridge.tensorrt.decompositions import decompositions
from bridge.tensorrt.network.convertible_graph import refusal
from bridge.tensorrt.plugins import shape_rules

Body = Callable[..., Any]


def with_functional_launches(program: ExportedProgram) -> ExportedProgram:
    """The program with the results of Triton launches as new tensors; itself if it has no launch."""
    return functionalised(program) if any(map(raw_launches.writes, program.graph.nodes)) else program


def with_marked_generated(
    program: ExportedProgram, session: Session, refused: graphs.Refused | None = None
) -> ExportedProgram:
    """The program after `generate_marked`; a new one if it launches Triton kernels."""
    program = with_functional_launches(program)
    compared = session.config.check_generated
    generate_marked(program.graph, session.target, refused, session.selection, compared=compared)
    program.graph_module.recompile()
    return program


def generate_marked(
    graph: Graph,
    target: str,
    refused: graphs.Refused | None = None,
    selection: Selection = ALL,
    *,
    compared: bool = True,
) -> None:
    """Has operators call generated ops that are defined in Python, as a triton_op, a custom op or an op without a
    kernel, and that have neither a plugin, a converter nor a decomposition; and launches of Triton kernels.

    refused: is told of what cannot become a plugin, and stays; None makes it an error. selection: of
    configurations of autotuned kernels. compared: whether new plugins are compared with PyTorch on the target's GPU.
    UnsupportedOpError, BuildError: one cannot become a plugin.
    """
    graphs.generate(graph, target, _marked_bodies(), refused or _raise, selection, _check(target, compared))


def _check(target: str, compared: bool) -> graphs.Check | None:
    return functools.partial(compare, target=target) if compared else None


def _raise(node: Node, error: BridgeError) -> None:
    raise type(error)(f"{error}\n{_WAYS_OUT}") from error


_WAYS_OUT = (
    "Mend that in the function; or give the operator a kernel and a plugin of its own (`bridge new op`, bridge.bind);"
    ' or run it in PyTorch: torch.compile(model, backend="bridge", options={"fallback": True}). docs/unsupported.md'
    " compares these ways."
)


def marked_instances(graph: Graph) -> list[Instance]:
    """What `generate_marked` would make plugins of. UnsupportedOpError: an operator cannot become one."""
    return graphs.instances(graph, _marked_bodies())


def unsupported_instances(graph: Graph) -> list[Instance]:
    """What `generate_unsupported` would make plugins of. UnsupportedOpError: an operator cannot become one."""
    return graphs.instances(graph, _unsupported_body)


def warn_of_refusal(node: Node, error: BridgeError) -> None:
    """Says why an operator runs in PyTorch."""
    logger.warning("%s", error)


def generate_unsupported(graph: Graph, session: Session) -> None:
    """Has the operators of a lowered graph that no converter takes call generated ops.

    UnsupportedOpError, BuildError: one cannot become a plugin.
    """
    check = _check(session.target, session.config.check_generated)
    graphs.generate(graph, session.target, _unsupported_body, _raise, session.selection, check)


def generate_operators(graph: Graph, operators: Collection[OpOverload], session: Session) -> None:
    """Has calls of these operators call generated ops.

    UnsupportedOpError, BuildError: one cannot become a plugin.
    """
    check = _check(session.target, session.config.check_generated)
    wanted: dict[Any, Body] = {each: body_of(each) or each for each in operators}
    graphs.generate(graph, session.target, lambda node: wanted.get(node.target), _raise, session.selection, check)


def _unsupported_body(node: Node) -> Body | None:
    if not isinstance(node.target, OpOverload) or refusal(node) is None:
        return None
    return body_of(node.target) or node.target


def _marked_bodies() -> Callable[[Node], Body | None]:
    """What gives the body of a marked operator, for the nodes of one graph."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    ops, decomposed = foreign.targets(), functools.cache(decompositions)  # a table that few models need here

    def body(node: Node) -> Body | None:
        found = body_of(node.target)
        op = ops.get(node.target)
        if found is None or op is not None:
            return found if op is not None and lacks_kernel(op) else None
        converted = DYNAMO_CONVERTERS.get_unvalidated(node.target) is not None
        return None if converted or node.target in decomposed() else found

    return body


def lacks_kernel(op: Op) -> bool:
    """Whether an op has no plugin, and nothing is wrong with the library that would have it."""
    if isinstance(op, GeneratedOp) or op.library.problem_of(op.local_name) or op.library.is_misplaced:
        return False
    return shape_rules.refusal(op) is not None
