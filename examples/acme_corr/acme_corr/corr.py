"""The reference of acme::corr: local correlation of two feature maps, the cost volume of optical flow."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import bridge
from bridge import Floating, LikeFirst, only_shapes, require

MOST_RADIUS = 16
Sample = tuple[str, list[Tensor], dict[str, list[int]]]  # what to call it, arguments, keyword arguments


@bridge.op("acme::corr")
def corr(f1: Floating, f2: LikeFirst, radii: Sequence[int] = (4, 4)) -> tuple[Tensor, Tensor]:
    """How well each feature of one map matches its neighbours in another one, and the displacement that follows.

        cost[b, (dy, dx), y, x] = sum over c of f1[b, c, y, x] * f2[b, c, y + dy, x + dx] / sqrt(C)
        flow[b, :, y, x] = sum over (dy, dx) of softmax(cost)[b, (dy, dx), y, x] * (dx, dy)

    Args:
        f1: [B, C, H, W], features of the first image; float32, float16 or bfloat16 (float64 on CPU).
        f2: [B, C, H, W], of the second image; of the dtype of f1.
        radii: (vertical, horizontal), pixels: dy is in -RY ... RY and dx in -RX ... RX; each 0 to 16.
    Returns:
        cost: [B, (2 RY + 1) * (2 RX + 1), H, W], dense; dx varies fastest. 0 where (y + dy, x + dx) is off the map.
        flow: [B, 2, H, W], dense, pixels; displacements off the map have no weight. Both are of the dtype of f1; sums
        and the softmax are float32 whatever the dtype.
    Raises:
        OpInputError: shapes, dtypes or radii that do not fit; the message names the value.
    Source: the cost volume of Teed and Deng, https://arxiv.org/abs/2003.12039, section 3.2, within a window as in Sun
        et al., https://arxiv.org/abs/1709.02371, section 3; the flow of Xu et al., https://arxiv.org/abs/2111.13680,
        equations 2 and 3.
    """
    _check(f1, f2, radii)
    (batch, channels, height, width), (ry, rx) = f1.shape, radii
    steps = [(dy, dx) for dy in range(-ry, ry + 1) for dx in range(-rx, rx + 1)]
    if only_shapes():
        return f1.new_empty(batch, len(steps), height, width), f1.new_empty(batch, 2, height, width)

    wide = torch.float64 if f1.dtype == torch.float64 else torch.float32
    a, b = f1.to(wide) / channels**0.5, F.pad(f2.to(wide), (rx, rx, ry, ry))
    inside = F.pad(a.new_ones(height, width), (rx, rx, ry, ry))

    def shifted(x: Tensor, dy: int, dx: int) -> Tensor:
        return x[..., ry + dy : ry + dy + height, rx + dx : rx + dx + width]

    cost = torch.stack([(a * shifted(b, *step)).sum(1) for step in steps], 1)  # [B, K, H, W]
    outside = torch.stack([shifted(inside, *step) for step in steps]) == 0  # [K, H, W]
    weights = cost.masked_fill(outside, -torch.inf).softmax(1)
    displacements = torch.tensor([(dx, dy) for dy, dx in steps], dtype=wide, device=f1.device)  # [K, 2]
    flow = torch.einsum("bkhw,kd->bdhw", weights, displacements)
    return cost.to(f1.dtype), flow.to(f1.dtype)


def _check(f1: Tensor, f2: Tensor, radii: Sequence[int]) -> None:
    fits = len(radii) == 2 and all(0 <= radius <= MOST_RADIUS for radius in radii)
    require(fits, f"corr: radii is {list(radii)}, expected [vertical, horizontal], each 0 to {MOST_RADIUS}")
    require(f1.dim() == 4, f"corr: f1 has shape {tuple(f1.shape)}, expected [B, C, H, W]")
    require(f1.shape == f2.shape, f"corr: f2 has shape {tuple(f2.shape)}, expected that of f1, {tuple(f1.shape)}")
    require(f1.shape[1] > 0, f"corr: f1 has shape {tuple(f1.shape)}, expected a channel at least")


def corr_samples() -> list[Sample]:
    """Calls for the checks: a map smaller than the window, one wider than a block's piece of a row, an empty one."""
    calls = [
        ((1, 2, 3, 2), [1, 1]),
        ((1, 3, 2, 1), [0, 2]),
        ((0, 4, 6, 6), [1, 1]),
        ((2, 17, 5, 4), [3, 2]),
        ((1, 5, 3, 131), [0, 4]),
        ((2, 9, 2, 33), [5, 1]),
    ]
    generator = torch.Generator().manual_seed(0)
    return [
        (f"{list(shape)}, radii {radii}", [torch.randn(shape, generator=generator) for _ in range(2)], {"radii": radii})
        for shape, radii in calls
    ]
