"""Upsampling on a GPU of a tensor with a dynamic number of channels, without guards.

torch decomposes it into indexing, and picks another memory format below some number of channels on a GPU. That test
puts a guard on a dynamic extent. A batch of masks has images in the place of channels. It could
then be exported for at most 3 images, or for at least 4.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions

from bridge.base.patches import replace

# The decompositions in torch 2.11; a version that lacks one is left unchanged.
_NEAREST = "_upsample_nearest"
_LINEAR = "_upsample_linear"


@contextlib.contextmanager
def upsampling_without_guards() -> Iterator[None]:
    """Within it torch decomposes upsampling without a guard on the number of channels."""
    with contextlib.ExitStack() as stack:
        if hasattr(decompositions, _NEAREST) and hasattr(decompositions, "_compute_upsample_nearest_indices"):
            replace(stack, decompositions, _NEAREST, _nearest(getattr(decompositions, _NEAREST)))
        if hasattr(decompositions, _LINEAR):
            replace(stack, decompositions, _LINEAR, _linear(getattr(decompositions, _LINEAR)))
        yield


def _nearest(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def upsample(
        input: Tensor, output_size: Sequence[int], scales: Sequence[float | None], exact: bool = False
    ) -> Tensor:
        if isinstance(input.shape[1], int):
            return original(input, output_size, scales, exact)
        places = decompositions._compute_upsample_nearest_indices(input, output_size, scales, exact=exact)
        return torch.ops.aten._unsafe_index(input, [None, None, *places])

    return upsample


def _linear(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def upsample(input: Tensor, *how: Any, **more: Any) -> Tensor:
        if isinstance(input.shape[1], int):
            return original(input, *how, **more)
        single = original(input.flatten(0, 1).unsqueeze(1), *how, **more)  # [N * C, 1, ...]: one channel each
        return single.reshape(*input.shape[:2], *single.shape[2:])

    return upsample
