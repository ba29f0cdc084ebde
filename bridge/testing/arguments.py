"""The arguments of a call in other dtypes, on other devices and in other layouts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bridge.core.op import Op

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def cast(args: Sequence[Any], dtype: torch.dtype | None = None, device: str | None = None) -> list[Any]:
    """The same arguments with floating-point tensors of that dtype, and every tensor on that device."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

    return [convert(value) for value in args]


def with_dtype(op: Op, kwargs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The attributes of a call whose results are of that dtype, where an attribute of the op, `dtype`, says so."""
    chosen = any(attribute.name == "dtype" and attribute.type == "str" for attribute in op.attributes)
    return {**kwargs, **({"dtype": str(dtype).removeprefix("torch.")} if chosen else {})}


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    """The outputs of a call as a tuple, also where there is one."""
    return result if isinstance(result, tuple) else (result,)


def differentiable(value: Any) -> bool:
    """Whether an argument can have a gradient: it is a floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point()


def strided(tensor: Tensor) -> Tensor:
    """The same values, not contiguous where there are two dimensions or more."""
    return tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor


def misaligned(tensor: Tensor) -> Tensor:
    """The same values, contiguous, an element after the start of their memory."""
    room = tensor.new_empty(tensor.numel() + 1)
    return room[1:].view(tensor.shape).copy_(tensor)


Layout = Callable[[Tensor], Tensor]
LAYOUTS: tuple[Layout, ...] = (strided, misaligned)


def laid_out(args: Sequence[Any], layout: Layout) -> list[Any]:
    """The same arguments with every tensor in that layout."""
    return [layout(value) if isinstance(value, Tensor) else value for value in args]


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it, freshly allocated tensors hold NaN (or the largest integer) instead of what memory held."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch.utils.deterministic fills memory by default
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
