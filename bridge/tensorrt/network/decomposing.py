"""Decomposes a program's operators; errors name the operator and the line of the model."""

import contextlib
import re
from collections.abc import Iterator

from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bridge.errors import BridgeError, BuildError
from bridge.graph.model_source import model_line, operator_name
from bridge.tensorrt.decompositions import decompositions

_LOST = "Pending unbacked symbols"  # torch's message about an extent that it invents, such as that of x[1:3][:2]
# The end of a message of torch.fx's interpreter.
_EXECUTING = re.compile(r"(?:^|\n)\s*While executing %(\w+) : .*", re.S)


def decompose(program: ExportedProgram) -> ExportedProgram:
    """The program in operators that can be converted.

    BuildError: a decomposition fails. PyTorch's own do for some dtypes that their operators accept.
    """
    with explaining_failures(program.graph, "decomposed"):
        return program.run_decompositions(decompositions())


@contextlib.contextmanager
def explaining_failures(graph: Graph, action: str) -> Iterator[None]:
    """The context in which a failure of an operator names it and the line of the model. action: such as "decomposed".

    BuildError: any error but bridge's own.
    """
    try:
        yield
    except BridgeError:
        raise
    except Exception as error:  # decompositions assert, and raise what PyTorch raises
        text = str(error)
        match = _EXECUTING.search(text)
        node = _node_named(graph, match[1]) if match else None
        reason = (text[: match.start()] if match else text).strip() or type(error).__name__
        if reason.startswith(_LOST):
            reason = "torch cannot tell an extent of a slice there; give the dynamic dimensions a larger lower bound"
        name, line = ("the model", "") if node is None else (operator_name(node), f"\n  {model_line(node)}")
        raise BuildError(
            f"{name} cannot be {action}: {reason}{line}\nWrite that line with other operations, give it another dtype,"
            " or make an op of it in a package of yours (`bridge new op acme::corr`)."
        ) from error


def _node_named(graph: Graph, name: str) -> Node | None:
    return next((node for node in graph.nodes if node.name == name and node.op == "call_function"), None)
