"""Nearest upsampling on a GPU, of a tensor whose number of channels is dynamic.

torch takes it apart into indexing, and into another memory format where a tensor on a GPU has fewer than 4 channels. To
ask that of a dynamic extent is to bound it: a batch of masks, which stands where channels do, could be exported for at
most 3 images, or for at least 4.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch._decomp import decompositions

from bridge.base.patches import replace

_NAME = "_upsample_nearest"  # by which torch 2.11 decomposes all of them; a version that lacks it is left as it is


@contextlib.contextmanager
def of_any_channels() -> Iterator[None]:
    """Within it torch decomposes nearest upsampling without a question about dynamic numbers of channels."""
    theirs = getattr(decompositions, _NAME, None)
    if theirs is None or not hasattr(decompositions, "_compute_upsample_nearest_indices"):
        yield
        return

    def upsample(
        input: Tensor, output_size: Sequence[int], scales: Sequence[float | None], exact: bool = False
    ) -> Tensor:
        if isinstance(input.shape[1], int):
            return theirs(input, output_size, scales, exact)
        places = decompositions._compute_upsample_nearest_indices(input, output_size, scales, exact=exact)
        return torch.ops.aten._unsafe_index(input, [None, None, *places])

    with contextlib.ExitStack() as stack:
        replace(stack, decompositions, _NAME, upsample)
        yield
