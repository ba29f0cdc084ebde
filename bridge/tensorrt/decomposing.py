"""Takes a program's operators apart; what fails there names the operator and the model's line."""

import re

from torch.export import ExportedProgram
from torch.fx import Node

from bridge.errors import BridgeError, BuildError
from bridge.source import model_line, operator_name
from bridge.tensorrt.decompositions import decompositions

_EXECUTING = re.compile(r"(?:^|\n)\s*While executing %(\w+) : .*", re.S)  # as torch.fx's interpreter ends a message


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program in the operators that are converted.

    BuildError: a decomposition fails, as one of PyTorch's own may for a dtype that its operator takes.
    """
    try:
        return program.run_decompositions(decompositions())
    except BridgeError:
        raise
    except Exception as error:  # decompositions assert, and raise what PyTorch raises
        text = str(error)
        found = _EXECUTING.search(text)
        node = _named(program, found[1]) if found else None
        if found is None or node is None:
            raise
        what = text[: found.start()].strip() or type(error).__name__
        raise BuildError(
            f"{operator_name(node)} cannot be taken apart: {what}\n  {model_line(node)}\nWrite that line with other"
            " operations, give it another dtype, or make an op of it with @bridge.op and a kernel."
        ) from error


def _named(program: ExportedProgram, name: str) -> Node | None:
    return next((node for node in program.graph.nodes if node.name == name and node.op == "call_function"), None)
