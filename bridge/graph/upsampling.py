"""Upsampling on a GPU, of a tensor whose number of channels is dynamic.

torch takes it apart into indexing, and into another memory format where a tensor on a GPU has fewer channels than some
number. To ask that of a dynamic extent is to bound it: a batch of masks, which stands where channels do, could be
exported for at most 3 images, or for at least 4.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions

from bridge.base.patches import replace

# By which torch 2.11 decomposes all of them; a version that lacks one is left as it is.
_NEAREST = "_upsample_nearest"
_LINEAR = "_upsample_linear"


@contextlib.contextmanager
def of_any_channels() -> Iterator[None]:
    """Within it torch decomposes upsampling without a question about dynamic numbers of channels."""
    with contextlib.ExitStack() as stack:
        if hasattr(decompositions, _NEAREST) and hasattr(decompositions, "_compute_upsample_nearest_indices"):
            replace(stack, decompositions, _NEAREST, _nearest(getattr(decompositions, _NEAREST)))
        if hasattr(decompositions, _LINEAR):
            replace(stack, decompositions, _LINEAR, _linear(getattr(decompositions, _LINEAR)))
        yield


def _nearest(theirs: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def upsample(
        input: Tensor, output_size: Sequence[int], scales: Sequence[float | None], exact: bool = False
    ) -> Tensor:
        if isinstance(input.shape[1], int):
            return theirs(input, output_size, scales, exact)
        places = decompositions._compute_upsample_nearest_indices(input, output_size, scales, exact=exact)
        return torch.ops.aten._unsafe_index(input, [None, None, *places])

    return upsample


def _linear(theirs: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def upsample(input: Tensor, *how: Any, **more: Any) -> Tensor:
        if isinstance(input.shape[1], int):
            return theirs(input, *how, **more)
        single = theirs(input.flatten(0, 1).unsqueeze(1), *how, **more)  # [N * C, 1, ...]: one channel each
        return single.reshape(*input.shape[:2], *single.shape[2:])

    return upsample
