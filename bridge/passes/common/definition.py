"""What the file of a pass defines: `PASS`, by which `bridge.passes` finds it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import Graph

from bridge.passes.common.constants import Constants
from bridge.passes.common.outcome import Outcome


@dataclass(frozen=True)
class Pass:
    """One rewrite, named like its file.

    apply: rewrites a graph in place, given the constants in it. default: whether it is on where the setting names no
    passes. rank: passes run by rank, then by name; one whose pattern may be a part of another's has a higher rank.
    """

    name: str
    apply: Callable[[Graph, Constants], list[Outcome]]
    default: bool = True
    rank: int = 0
