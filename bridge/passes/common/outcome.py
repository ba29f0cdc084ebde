"""What a pass did, or why it did not."""

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.base.log import logger
from bridge.graph.model_source import model_line, module_path

# Why a place is declined whose tensors are not what the nodes say.
WRITTEN = "the model writes in place to a tensor that it is computed from"


def describe_failure(error: Exception) -> str:
    """Why a place stays as it is where the pass itself met an error that it did not foresee; the log has the rest."""
    logger.debug("a pass failed", exc_info=error)
    first = next(iter(str(error).splitlines()), "")
    return f"the pass cannot read this code ({type(error).__name__}: {first})"


@dataclass(frozen=True)
class Outcome:
    """One place in a model where a pass found its op, or something near it.

    name: of the pass. what: the op's call, or why the place was left as it is. line, module: of the model.
    """

    name: str
    replaced: bool
    what: str
    line: str
    module: str

    @classmethod
    def at(cls, node: Node, name: str, replaced: bool, what: str) -> "Outcome":
        """Of the place that a node comes from."""
        return cls(name, replaced, what, model_line(node), module_path(node))

    @classmethod
    def failed(cls, node: Node, name: str, error: Exception) -> "Outcome":
        """Of a place that a pass could not read, or replace: the model stays as it is there."""
        return cls.at(node, name, False, describe_failure(error))

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "pass": self.name,
            "replaced": self.replaced,
            "what": self.what,
            "line": self.line,
            "module": self.module,
        }
