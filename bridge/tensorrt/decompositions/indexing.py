"""Indices that count from the end, made to count from the start.

TensorRT leaves them undefined where the extent is dynamic. torch_tensorrt takes several index tensors as one into the
flattened axes, where -1 in the second is the row before; and it takes a dynamic extent for -1 beside constant indices.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

INDEX = torch.ops.aten.index.Tensor
_state = threading.local()


def index(x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """x[indices], each index within [0, extent). x [...]; truth values as indices are left as they are."""
    axes = [axis for axis, places in enumerate(indices) if places is not None]
    given = [places for places in indices if places is not None]
    exact = len(axes) == 1 and isinstance(x.shape[axes[0]], int)
    if exact or getattr(_state, "within", False) or any(places.dtype in (torch.bool, torch.uint8) for places in given):
        return NotImplemented
    counted = [None if places is None else _from_start(places, x.shape[axis]) for axis, places in enumerate(indices)]
    with _within():
        return INDEX(x, counted)


def _from_start(places: Tensor, extent: Any) -> Tensor:
    return torch.where(places < 0, places + extent, places)


@contextlib.contextmanager
def _within() -> Iterator[None]:
    """Decompositions are asked for what they themselves call, too."""
    _state.within = True
    try:
        yield
    finally:
        _state.within = False


# Each returns NotImplemented for what it leaves as it is.
ROWS: dict[Any, Callable[..., Any]] = {
    INDEX: index,
}
