"""A workload: the arguments of a call, and the bytes and operations that it needs at least."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Workload:
    """One call of an op.

    group: "default", or one that runs only when named. variation: of another row; peers that compile for each shape,
    which takes seconds, are measured beside that one alone. captured: whether a CUDA graph can hold the call.
    """

    op: str
    name: str
    dtype: str
    group: str = "default"
    variation: bool = False
    captured = True

    @property
    def element(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """Fresh random arguments of the op."""
        raise NotImplementedError

    def batched(self) -> tuple[int, ...]:
        """The indices of the arguments whose first axis is the batch, as in the results; empty without a batch."""
        return ()

    def constants(self) -> tuple[str, ...]:
        """The tensors that are constants of a model, of which its engine keeps what a plugin makes."""
        return ()

    def bytes(self) -> int:
        """Least traffic to and from memory: every input read once, every output written once."""
        raise NotImplementedError

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """As `bytes`, for these arguments: their values may decide which elements are read."""
        return self.bytes()

    def errors(self, args: list[Any], settings: dict[str, Any], result: Any) -> dict[str, Any] | None:
        """The errors of a result, as measure.compare returns them; None to compare with the op's reference."""
        return None

    def difference(self, results: Sequence[Tensor], peer_results: Sequence[Tensor]) -> float:
        """Largest difference of two results, as a fraction of the largest value; NaN where one has NaN."""
        pairs = zip(results, peer_results, strict=True)
        fractions = [float((b.reshape(a.shape) - a).abs().max() / a.abs().max()) for a, b in pairs]
        return torch.tensor(fractions, dtype=torch.float64).max().item()

    def flops(self) -> int:
        """Operations of its matrix products, 0 where there are none."""
        return 0

    def gathered(self, args: list[Any], settings: dict[str, Any]) -> int:
        """Bytes that multiprocessors must gather through their L1 caches, however often they lie there already."""
        return 0

    def _random(self, device: torch.device, *shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=DTYPES[self.dtype])
