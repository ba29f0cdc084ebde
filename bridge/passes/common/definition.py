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
    apply_by_default: as `apply`, for where the setting names no passes and it leaves more to TensorRT; None: `apply`.
    measured: the flavours of TensorRT and the GPUs, such as ("tensorrt_rtx", "sm90"), for which alone it does so, since
        it was measured there; None: all.
    reads_bytes: whether it puts an op on an input's bytes, which torch_tensorrt's own conversion cannot declare.
    rank: passes run by rank, then by name. A pattern that may be part of another pass's pattern has a higher rank.
    """

    name: str
    apply: Callable[[Graph, Constants], list[Outcome]]
    default: bool = True
    apply_by_default: Callable[[Graph, Constants], list[Outcome]] | None = None
    measured: tuple[tuple[str, str], ...] | None = None
    reads_bytes: bool = False
    rank: int = 0

    def is_default(self, flavour: str | None, target: str | None) -> bool:
        """Whether it runs by default in an engine of that TensorRT, for that GPU; None: of one that is not known."""
        return self.default and (self.measured is None or (flavour, target) in self.measured)
