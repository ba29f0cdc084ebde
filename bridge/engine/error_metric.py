"""The difference of two results of a model."""

from typing import Any

import torch
from torch.utils import _pytree as pytree


def largest_error(actual: Any, expected: Any) -> float:
    """The largest difference of any tensor of a result, as a fraction of that tensor's largest value."""
    pairs = zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True)
    errors = [_error(got, wanted) for got, wanted in pairs if isinstance(wanted, torch.Tensor) and wanted.numel()]
    return torch.tensor([0.0, *errors]).max().item()  # NaN if any is


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    got, wanted = actual.cpu().double(), expected.cpu().double()
    differences = (got - wanted).abs().masked_fill(got == wanted, 0.0)  # infinities of one sign do not differ
    difference = differences.max().item()
    scale = wanted.abs().masked_fill(~wanted.isfinite(), 0.0).max().item()
    return difference / scale if scale else difference
