"""The error of a model's result against a reference."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def largest_error(actual: Any, expected: Any) -> float:
    """The largest difference of any tensor of a result, as a fraction of that tensor's largest value."""
    pairs = zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True)
    errors = [_error(tensor, reference) for tensor, reference in pairs if isinstance(reference, Tensor)]
    return torch.tensor([0.0, *errors]).max().item()  # NaN if any is


def _error(actual: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    result, reference = actual.cpu().double(), expected.cpu().double()
    differences = (result - reference).abs().masked_fill(result == reference, 0.0)  # equal infinities do not differ
    difference = differences.max().item()
    scale = reference.abs().masked_fill(~reference.isfinite(), 0.0).max().item()
    return difference / scale if scale else difference
