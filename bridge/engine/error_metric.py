"""How far two results of a model are apart."""

from typing import Any

import torch
from torch.utils import _pytree as pytree


def largest_error(actual: Any, expected: Any) -> float:
    """Of all tensors of a result: the largest difference, as a fraction of the largest value of that tensor."""
    pairs = zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True)
    errors = [_error(ours, theirs) for ours, theirs in pairs if isinstance(theirs, torch.Tensor) and theirs.numel()]
    return torch.tensor([0.0, *errors]).max().item()  # NaN where one of them is


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    ours, theirs = actual.cpu().double(), expected.cpu().double()
    differences = (ours - theirs).abs().masked_fill(ours == theirs, 0.0)  # infinities of one sign do not differ
    difference = differences.max().item()
    scale = theirs.abs().masked_fill(~theirs.isfinite(), 0.0).max().item()
    return difference / scale if scale else difference
