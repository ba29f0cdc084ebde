"""Grouped matrix products, as in mixtures of experts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def grouped_mm(
    a: Tensor,
    b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Rows a [M, K], in groups that end at offs [E], times the group's matrix of b [E, K, N]: [M, N].

    For few rows, the matrix of each row is gathered. Many rows are multiplied with every matrix, and the group's result
    is gathered: the number of rows in a group depends on values, which no shape in an engine may.
    """
    if a.dim() == 3 and b.dim() == 3 and bias is None:
        return torch.bmm(a, b)
    if (a.dim(), b.dim()) != (2, 3) or offs is None or bias is not None:
        return NotImplemented
    rows, groups = a.shape[0], b.shape[0]
    position = torch.arange(rows, device=a.device)
    group = (position.unsqueeze(1) >= offs).sum(1)  # [M]; rows after the last group have group E
    inside = (group < groups).unsqueeze(1)
    group = group.clamp(max=groups - 1)
    if isinstance(rows, int) and rows <= groups:
        product = torch.bmm(a.unsqueeze(1), b.index_select(0, group)).squeeze(1)
    else:
        products = torch.matmul(a, b)  # [E, M, N]
        index = group.reshape(1, rows, 1).expand(1, rows, b.shape[2])
        product = products.gather(0, index).squeeze(0)
    return torch.where(inside, product, 0)


def grouped_mm_fallback(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """transformers' operator, which its experts call if torch's cannot be compiled."""
    return grouped_mm(input, weight, offs)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._grouped_mm.default: grouped_mm,
}
