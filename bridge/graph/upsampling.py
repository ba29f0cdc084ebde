"""Nearest upsampling on a GPU of a tensor with a dynamic number of channels, without guards.

torch decomposes it into indexing, and picks another memory format for fewer than 4 channels on a GPU. That test puts a
guard on a dynamic extent. A batch of masks, which has images in the place of channels, could then be exported for at
most 3 images, or for at least 4.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch._decomp import decompositions

from bridge.base.patches import replace

_NAME = "_upsample_nearest"  # the decomposition in torch 2.11; a version that lacks it is left unchanged


@contextlib.contextmanager
def upsampling_without_guards() -> Iterator[None]:
    """Within it torch decomposes nearest upsampling without a guard on the number of channels."""
    original = getattr(decompositions, _NAME, None)
    if original is None or not hasattr(decompositions, "_compute_upsample_nearest_indices"):
        yield
        return

    def upsample(
        input: Tensor, output_size: Sequence[int], scales: Sequence[float | None], exact: bool = False
    ) -> Tensor:
        if isinstance(input.shape[1], int):
            return original(input, output_size, scales, exact)
        places = decompositions._compute_upsample_nearest_indices(input, output_size, scales, exact=exact)
        return torch.ops.aten._unsafe_index(input, [None, None, *places])

    with contextlib.ExitStack() as stack:
        replace(stack, decompositions, _NAME, upsample)
        yield
