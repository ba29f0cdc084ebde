"""Formulas of tensors that a model holds: one number, a progression, or a table of diagonals."""

import sympy
import torch
from torch import Tensor

from bridge.passes.window_attention.formulas import MOST_CASES, Formula, axis, constant, formula, plain

_MOST_DIAGONALS = 1 << 16


def of_tensor(tensor: Tensor) -> Formula | None:
    """The formula of a tensor whose elements are known; None where it is none of these."""
    if tensor.numel() == 0 or tensor.is_complex():
        return None
    flat = tensor.reshape(-1)
    if bool((flat == flat[0]).all()):
        return constant(tensor.shape, tensor.dtype, plain(flat[0]))
    if tensor.dim() and tensor.numel() == tensor.shape[-1]:
        return _progression(tensor, flat)
    if tensor.dim() >= 2 and tensor.numel() == tensor.shape[-1] * tensor.shape[-2]:
        return _diagonals(tensor, tensor.reshape(tensor.shape[-2:]))
    return None


def _progression(tensor: Tensor, flat: Tensor) -> Formula | None:
    """An arithmetic one, of which each number may come several times, as in arange(n) // 64."""
    if tensor.dtype.is_floating_point or tensor.dtype == torch.bool:
        return None
    first, place = int(flat[0]), torch.arange(flat.numel(), device=flat.device)
    times = int((flat != flat[0]).nonzero()[0])
    step = int(flat[times]) - first
    if not bool((flat == first + step * (place // times)).all()):
        return None
    index = axis(tensor.dim() - 1)
    return constant(tensor.shape, tensor.dtype, first + step * (sympy.floor(index / times) if times > 1 else index))


def _diagonals(tensor: Tensor, table: Tensor) -> Formula | None:
    """Of a table whose element depends on (column - row) alone."""
    if not bool((table[1:, 1:] == table[:-1, :-1]).all()) or sum(table.shape) > _MOST_DIAGONALS:
        return None
    rows = table.shape[0]
    along = torch.cat((table[:, 0].flip(0), table[0, 1:]))  # by column - row, from 1 - rows
    ends = (along[1:] != along[:-1]).nonzero().flatten().tolist()
    if len(ends) >= MOST_CASES:
        return None
    offset = axis(tensor.dim() - 1) - axis(tensor.dim() - 2)
    cases = []
    for first, last in zip([0, *(end + 1 for end in ends)], [*ends, len(along) - 1], strict=True):
        low = sympy.true if first == 0 else offset >= first - rows + 1
        high = sympy.true if last == len(along) - 1 else offset <= last - rows + 1
        cases.append((sympy.And(low, high), plain(along[first])))
    return formula(tensor.shape, tensor.dtype, cases)
