"""What a pass did, or why it did not."""

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.source import model_line, module_path


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

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "pass": self.name,
            "replaced": self.replaced,
            "what": self.what,
            "line": self.line,
            "module": self.module,
        }
