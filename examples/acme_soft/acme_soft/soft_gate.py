"""acme_soft::soft_gate, by torch.library alone: bridge is not named here."""

import torch
from torch import Tensor
from torch.library import custom_op

STEPS = 16  # of bisection


@custom_op("acme_soft::soft_gate", mutates_args=())
def soft_gate(scores: Tensor, k: float, temperature: float = 1.0) -> Tensor:
    """Weights between 0 and 1 that sum to k: a smooth choice of the k highest scores, without sorting.

        gate = sigmoid((scores - t) / temperature), with t such that the last axis sums to k

    Args:
        scores: [..., N]; float32, float16 or bfloat16.
        k: more than 0, less than N. temperature: more than 0; towards 0 the choice becomes a hard one.
    Returns:
        [..., N], of the dtype of scores; computed in float32. t is found by bisection, to 2^-16 of the scores' range.
    Raises:
        ValueError: k or the temperature is out of its range.
    Source: the relaxed top-k of https://arxiv.org/abs/1907.12219 (Amos et al., LML), which has the same form.
    """
    if not 0 < k < scores.shape[-1] or temperature <= 0:
        raise ValueError(
            f"soft_gate: k is {k} and temperature {temperature}, expected 0 < k < {scores.shape[-1]} and more than 0"
        )
    x = scores.float() / temperature
    # t lies this far below equal scores, so it lies between this far below the least and the greatest of any.
    distance = torch.logit(torch.full_like(x[..., :1], k / x.shape[-1]))
    low, high = x.amin(-1, keepdim=True) - distance, x.amax(-1, keepdim=True) - distance
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = torch.sigmoid(x - middle).sum(-1, keepdim=True) > k
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.sigmoid(x - (low + high) / 2).to(scores.dtype)


@soft_gate.register_fake
def _(scores: Tensor, k: float, temperature: float = 1.0) -> Tensor:
    return torch.empty_like(scores)
