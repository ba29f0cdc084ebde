"""What a workload is: the arguments of a call, with the bytes and the operations that it cannot do without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Workload:
    """One call of an op. group: a default one, or one that is asked for by its name. captured: whether a CUDA graph can
    hold it."""

    op: str
    name: str
    dtype: str
    group: str = "default"
    captured = True

    @property
    def element(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """Fresh random arguments of the op."""
        raise NotImplementedError

    def batched(self) -> tuple[int, ...]:
        """The places of the arguments whose first axis is the batch, as the results' is; none: there is no batch."""
        return ()

    def bytes(self) -> int:
        """Least traffic to and from memory: every input read once, every output written once."""
        raise NotImplementedError

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """The same of these arguments, where it is their values that say which elements are read."""
        return self.bytes()

    def errors(self, args: list[Any], settings: dict[str, Any], result: Any) -> dict[str, Any] | None:
        """How wrong a result is, as measure.compare gives it; None where it is compared with the op's reference."""
        return None

    def difference(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """Largest difference of two results, as a fraction of the largest value; NaN where one has NaN."""
        found = [float((b.reshape(a.shape) - a).abs().max() / a.abs().max()) for a, b in zip(ours, theirs, strict=True)]
        return torch.tensor(found, dtype=torch.float64).max().item()

    def flops(self) -> int:
        """Operations of its matrix products, 0 where there are none."""
        return 0

    def _random(self, device: torch.device, *shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=DTYPES[self.dtype])
