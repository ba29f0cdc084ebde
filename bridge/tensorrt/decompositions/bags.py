"""Embedding bags: sums, means and maxima of rows of a table."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.scattering import reduce_rows

_MODES = ("sum", "mean", "amax")


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of weight [V, D] at indices [n], reduced by bags that begin at offsets [B]: [B, D], zeros for an empty bag.

    The other three results serve training alone, and are empty.
    """
    starts = offsets[:-1] if include_last_offset else offsets
    position = torch.arange(indices.shape[0], device=indices.device)
    bag = (position.unsqueeze(1) >= starts).sum(1) - 1  # [n]
    rows = weight.index_select(0, indices)
    if padding_idx >= 0:
        bag = torch.where(indices == padding_idx, -1, bag)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    zeros = torch.zeros(starts.shape[0], weight.shape[1], dtype=weight.dtype, device=weight.device)
    reduced = reduce_rows(zeros, bag, rows, _MODES[mode], include_self=False)
    empty = indices.new_zeros(0)
    return reduced if reduced is NotImplemented else (reduced, empty, empty, empty)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._embedding_bag.default: embedding_bag,
    torch.ops.aten._embedding_bag_forward_only.default: embedding_bag,
}
