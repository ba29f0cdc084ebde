"""acme_soft::window_pool, by bridge.op: a reference, and no kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

import bridge
from bridge import Floating, require


@bridge.op("acme_soft::window_pool")
def window_pool(x: Floating, scores: Floating, window: int = 4) -> Tensor:
    """Means of the last few steps of a sequence, weighted by the softmax of their scores.

        y[b, t] = sum over w < window of softmax over w of scores[b, t - w] * x[b, t - w]

    Args:
        x: [B, T, C]; float32, float16 or bfloat16 (float64 on CPU).
        scores: [B, T], any of these dtypes.
        window: steps, this one included; steps before the first have no weight.
    Returns:
        [B, T, C], of the dtype of x; computed in float32.
    Raises:
        OpInputError: shapes or a window that do not fit; the message names the value.
    Source: attention pooling, equation 1 of https://arxiv.org/abs/1703.03130 with one head, within a window.
    """
    require(window >= 1, f"window_pool: window is {window}, expected 1 or more")
    require(x.dim() == 3, f"window_pool: x has shape {tuple(x.shape)}, expected [B, T, C]")
    fits = scores.dim() == 2 and scores.shape == x.shape[:2]
    require(fits, f"window_pool: scores has shape {tuple(scores.shape)}, expected [B, T] of x, {tuple(x.shape[:2])}")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    steps = F.pad(x.to(wide), (0, 0, window - 1, 0)).unfold(1, window, 1)  # [B, T, C, window]
    weights = F.pad(scores.to(wide), (window - 1, 0), value=-torch.inf).unfold(1, window, 1).softmax(-1)
    return (steps * weights[:, :, None]).sum(-1).to(x.dtype)
