"""Takes a program's operators apart; what fails there names the operator and the model's line."""

import contextlib
import re
from collections.abc import Iterator

from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bridge.errors import BridgeError, BuildError
from bridge.graph.model_source import model_line, operator_name
from bridge.tensorrt.decompositions import decompositions

_LOST = "Pending unbacked symbols"  # how torch says that it has made up an extent, such as that of x[1:3][:2]
_EXECUTING = re.compile(r"(?:^|\n)\s*While executing %(\w+) : .*", re.S)  # as torch.fx's interpreter ends a message


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program in the operators that are converted.

    BuildError: a decomposition fails, as one of PyTorch's own may for a dtype that its operator takes.
    """
    with failures_told(program.graph, "taken apart"):
        return program.run_decompositions(decompositions())


@contextlib.contextmanager
def failures_told(graph: Graph, what: str) -> Iterator[None]:
    """Within it a failure of an operator of the graph names it and the model's line. what: what cannot be done to it.

    BuildError: whatever was raised, but for bridge's own errors.
    """
    try:
        yield
    except BridgeError:
        raise
    except Exception as error:  # decompositions assert, and raise what PyTorch raises
        text = str(error)
        found = _EXECUTING.search(text)
        node = _named(graph, found[1]) if found else None
        reason = (text[: found.start()] if found else text).strip() or type(error).__name__
        if reason.startswith(_LOST):
            reason = "torch cannot tell an extent of a slice there; give the dynamic dimensions a larger lower bound"
        name, where = ("the model", "") if node is None else (operator_name(node), f"\n  {model_line(node)}")
        raise BuildError(
            f"{name} cannot be {what}: {reason}{where}\nWrite that line with other operations, give it another dtype,"
            " or make an op of it with @bridge.op and a kernel."
        ) from error


def _named(graph: Graph, name: str) -> Node | None:
    return next((node for node in graph.nodes if node.name == name and node.op == "call_function"), None)
