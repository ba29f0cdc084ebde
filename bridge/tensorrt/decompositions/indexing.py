"""Makes negative indices, which count from the end, count from the start.

TensorRT leaves them undefined for dynamic extents. torch_tensorrt combines several index tensors into one for the
flattened axes, where -1 in the second selects the row before. With constant indices it takes -1 for a dynamic extent.
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
    """x[indices], with each index in [0, extent); not for boolean indices."""
    axes = [axis for axis, tensor in enumerate(indices) if tensor is not None]
    tensors = [tensor for tensor in indices if tensor is not None]
    is_converted_right = len(axes) == 1 and isinstance(x.shape[axes[0]], int)
    has_mask = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors)
    if is_converted_right or has_mask or getattr(_state, "within", False):
        return NotImplemented
    from_start = [None if tensor is None else _from_start(tensor, x.shape[axis]) for axis, tensor in enumerate(indices)]
    with _not_decomposing():
        return INDEX(x, from_start)


def _from_start(tensor: Tensor, extent: Any) -> Tensor:
    return torch.where(tensor < 0, tensor + extent, tensor)


@contextlib.contextmanager
def _not_decomposing() -> Iterator[None]:
    """The context in which `index` decomposes nothing: decompositions also apply to what they call."""
    _state.within = True
    try:
        yield
    finally:
        _state.within = False


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    INDEX: index,
}
