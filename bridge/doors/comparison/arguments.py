"""Arguments to compare a function on, which must not bring the process down.

A CUDA kernel that is given an index out of range ends the process, or reads what is not its own. So integers are zeros,
floating-point numbers come from a bounded range, and a function is called on the CPU first, where such an index is an
error. What it takes there at small extents it takes at greater ones.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.generate.program import TensorType

Function = Callable[[Sequence[Tensor]], Any]
Draw = Callable[[Tensor, torch.Generator], Tensor]
"""Fills a float32 tensor, with numbers of a range that does not depend on how many there are."""

# The second serves functions of probabilities, such as a binary cross entropy.
DRAWS: tuple[Draw, ...] = (
    lambda x, random: x.normal_(generator=random).clamp_(-3.0, 3.0),
    lambda x, random: x.uniform_(generator=random),
)


def tensors(types: Sequence[tuple[TensorType, tuple[int, ...]]], draw: Draw, device: torch.device) -> list[Tensor]:
    """Inputs of these dtypes and shapes, the same at every call."""
    random = torch.Generator(device).manual_seed(0)

    def tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        if not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype, device=device)
        return draw(torch.empty(shape, dtype=torch.float32, device=device), random).to(dtype)

    return [tensor(kind.dtype, shape) for kind, shape in types]


def refusal(function: Function, given: Sequence[Tensor]) -> Exception | None:
    """Why a function does not take tensors on the CPU; None: it does, in their own dtypes or in wider ones."""
    reason = None
    for each in (given, *wider(given)):
        try:
            function(each)
            return None
        except Exception as error:  # of any kind: the function is the user's
            reason = reason or error
    return reason


def wider(given: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The same tensors with floating-point ones in float64, then in float32 where that is wider."""
    narrow = {each.dtype for each in given if each.is_floating_point()}
    for dtype in (torch.float64, torch.float32):
        if narrow - {dtype, torch.float64}:
            yield [each.to(dtype) if each.is_floating_point() else each for each in given]
