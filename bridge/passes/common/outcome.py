"""The outcome of a pass at one match: the op that replaces it, or the reason to decline."""

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.base.log import logger
from bridge.graph.model_source import model_line, module_path

# The reason to decline a match with tensors that are not the values of their nodes.
MUTATED = "the model writes in place to a tensor that it is computed from"


def failure_text(error: Exception) -> str:
    """The reason to decline where a pass fails unexpectedly. The log, at level debug, has the traceback."""
    logger.debug("a pass failed", exc_info=error)
    first = next(iter(str(error).splitlines()), "")
    return f"the pass cannot read this code ({type(error).__name__}: {first})"


@dataclass(frozen=True)
class Outcome:
    """One match of a pass, or one near match.

    name: the pass. what: the op's call, or why the pass declined. line, module: where in the model.
    """

    name: str
    replaced: bool
    what: str
    line: str
    module: str

    @classmethod
    def at(cls, node: Node, name: str, replaced: bool, what: str) -> "Outcome":
        """The outcome at the line of the model that made a node."""
        return cls(name, replaced, what, model_line(node), module_path(node))

    @classmethod
    def failed(cls, node: Node, name: str, error: Exception) -> "Outcome":
        """The outcome where a pass raised an error; the model stays as it is there."""
        return cls.at(node, name, False, failure_text(error))

    def row(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "pass": self.name,
            "replaced": self.replaced,
            "what": self.what,
            "line": self.line,
            "module": self.module,
        }
