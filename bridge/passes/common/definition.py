"""The definition of a pass. Its module assigns one to `PASS`, and `bridge.passes` discovers it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import Graph

from bridge.passes.common.constants import Constants
from bridge.passes.common.outcome import Outcome


@dataclass(frozen=True)
class Pass:
    """One rewrite, named like its module.

    apply: rewrites a graph in place, given the constants in it.
    default: whether it runs where the setting names no passes.
    rank: passes run by rank, then by name. A pattern that may be part of another pass's pattern has a higher rank.
    """

    name: str
    apply: Callable[[Graph, Constants], list[Outcome]]
    default: bool = True
    rank: int = 0
