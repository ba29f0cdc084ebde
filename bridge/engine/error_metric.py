"""The error of a model's result against a reference."""

import math
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Deviation:
    """How far a tensor is from what PyTorch computes.

    error: the largest, as a fraction of the largest value, without what is explained; infinite for NaN or an infinity
    where there should be none. allowed: what rounding explains of it. wrong: how many elements are farther off;
    explained: how many may be.
    """

    error: float
    allowed: float
    wrong: int
    explained: int

    @property
    def is_wrong(self) -> bool:
        """Whether rounding does not explain it."""
        return self.wrong > self.explained


def deviation(actual: Tensor, peer: Tensor, exact: Tensor, dtype: torch.dtype | None) -> Deviation:
    """Compares a tensor with PyTorch's for the same inputs; all three have the same shape.

    peer: in the same dtypes. exact: in wider ones, or peer itself where there are none. dtype: the coarsest in which
    either may have rounded; None: there is none, and integers are equal.

    A result may be up to four times as far from `exact` as `peer` is, for it sums in another order, and some roundings
    more. A few elements may be anywhere: a comparison or a rounding within a function turns out otherwise for one in
    1 / eps. Where only one of `peer` and `exact` is finite, the dtype has no such number, and nothing is compared; in
    such a result other elements need not be finite either.
    """
    ours, theirs, right = (tensor.double() for tensor in (actual, peer, exact))
    eps = max(torch.finfo(dtype).eps, _LEAST_EPS) if dtype else 0.0
    finite = theirs.isfinite() & right.isfinite()
    scale = _largest(right, finite)
    roundings = _ROUNDINGS if exact is not peer else _ROUNDINGS_OF_BOTH
    allowed = _MORE_THAN_PEER * _largest(theirs - right, finite) + roundings * eps * scale
    if not actual.is_floating_point():
        allowed = 0.0
    distance = torch.minimum((ours - right).abs(), (ours - theirs).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    distance.masked_fill_(_same(ours, right) | _same(ours, theirs), 0.0)
    overflows = theirs.isfinite() != right.isfinite()
    distance.masked_fill_(overflows, 0.0)
    if overflows.any():  # and what is near to it may, too, in another order
        distance.masked_fill_(~ours.isfinite(), 0.0)
    far = distance > allowed
    wrong, explained = int(far.sum()), int(eps * actual.numel())
    largest = distance.max() if wrong > explained else distance.masked_fill(far, 0.0).max()
    unit = scale or 1.0
    return Deviation(largest.item() / unit, allowed / unit, wrong, explained)


_MORE_THAN_PEER = 4
_ROUNDINGS = 8  # of the largest value
_ROUNDINGS_OF_BOTH = 64  # where peer's own roundings are not known
_LEAST_EPS = 1e-6  # sums in float32 differ by their order


def _largest(values: Tensor, where: Tensor) -> float:
    return values.abs().masked_fill(~where, 0.0).max().item()


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())
