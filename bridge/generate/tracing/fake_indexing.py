"""Indexing and copies of fake tensors on a GPU that is not there.

torch's Python bindings ask the driver before they dispatch these calls, so no dispatch mode can answer. Here they are
the operators that the bindings would call. Known to work with torch 2.11 and 2.14.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten


class FakeIndexing(TorchFunctionMode):
    """The mode in which such calls of tensors on a GPU need no driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _CALLS.get(getattr(func, "__name__", ""))
        if call is not None and args and isinstance(args[0], Tensor) and args[0].is_cuda:
            return call(*args, **(kwargs or {}))
        if func in _MAKERS:
            return _MAKERS[func](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _get(x: Tensor, index: Any) -> Tensor:
    items = list(index) if isinstance(index, tuple) else [index]
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    rest = x.dim() - sum(_dimensions(item) for item in items)
    axis, selectors = 0, dict[int, Tensor]()
    for item in items:
        x, axis = _step(x, axis, item, rest, selectors)
    return aten.index(x, [selectors.get(place) for place in range(max(selectors) + 1)]) if selectors else x


def _dimensions(item: Any) -> int:
    """How many dimensions of the tensor an item of an index takes."""
    if item is None or item is Ellipsis:
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def _step(x: Tensor, axis: int, item: Any, rest: int, selectors: dict[int, Tensor]) -> tuple[Tensor, int]:
    """Applies one item of an index; returns the tensor and the axis of the next item."""
    if item is Ellipsis:
        return x, axis + rest
    if item is None:
        return aten.unsqueeze(x, axis), axis + 1
    if isinstance(item, slice):
        whole = item.start is None and item.stop is None and item.step is None
        step = 1 if item.step is None else item.step
        return (x if whole else aten.slice(x, axis, item.start, item.stop, step)), axis + 1
    if isinstance(item, Tensor):
        selectors[axis] = item
        return x, axis + 1
    if isinstance(item, (list, Sequence)):
        selectors[axis] = torch.tensor(item)
        return x, axis + 1
    return aten.select(x, axis, item), axis


def _set(x: Tensor, index: Any, value: Any) -> None:
    place = _get(x, index)
    if isinstance(value, Tensor):
        aten.copy_(place, value)
    else:
        aten.fill_(place, value)


def _contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return x if x.is_contiguous(memory_format=memory_format) else aten.clone(x, memory_format=memory_format)


def _filled(x: Tensor, value: Any, dtype: Any = None, device: Any = None, **other: Any) -> Tensor:
    return _constant(value, dtype or x.dtype, device or x.device)


def _constant(value: Any, dtype: Any = None, device: Any = None, **other: Any) -> Tensor:
    """A tensor of numbers. One number becomes a fill, which a kernel can be; several stay a constant."""
    if device is None or torch.device(device).type == "cpu":
        return torch.tensor(value, dtype=dtype)
    if isinstance(value, (int, float, bool)):
        return torch.full((), value, dtype=dtype or torch.tensor(value).dtype, device=device)
    return aten.stack([_constant(each, dtype, device) for each in value])


_CALLS: dict[str, Callable[..., Any]] = {
    "__getitem__": _get,
    "__setitem__": _set,
    "contiguous": _contiguous,
    "copy_": lambda x, *args, **kwargs: aten.copy_(x, *args, **kwargs),
    "cuda": lambda x, *args, **kwargs: x,
    "new_tensor": _filled,
}
_MAKERS: dict[Any, Callable[..., Any]] = {torch.tensor: _constant}
