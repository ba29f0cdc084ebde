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
    targets: the GPUs, such as "sm90", on which alone it does so, since it was measured there; None: all.
    reads_bytes: whether it puts an op on an input's bytes, which torch_tensorrt's own conversion cannot declare.
    rank: passes run by rank, then by name. A pattern that may be part of another pass's pattern has a higher rank.
    """

    name: str
    apply: Callable[[Graph, Constants], list[Outcome]]
    default: bool = True
    targets: tuple[str, ...] | None = None
    reads_bytes: bool = False
    rank: int = 0

    def is_default(self, target: str | None) -> bool:
        """Whether it runs by default in an engine for that GPU; None: for one that is not known."""
        return self.default and (self.targets is None or target in self.targets)
