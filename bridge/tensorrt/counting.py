"""How many elements there are of each kind."""

import torch
from torch import Tensor

from bridge.tensorrt.bounds import most
from bridge.tensorrt.scattering import MOST_COMPARISONS


def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements of x lie in each of `bins` intervals between min and max, [bins], in the dtype of x.

    Where min equals max, the elements' own least and greatest stand for them.
    """
    flat = x.flatten()
    if most(bins, *flat.shape) > MOST_COMPARISONS:
        return NotImplemented
    low, high = (flat.amin(), flat.amax()) if min == max else (min, max)
    if isinstance(low, Tensor):
        same = low == high
        low, high = torch.where(same, low - 1, low), torch.where(same, high + 1, high)
    inside = (flat >= low) & (flat <= high)
    place = torch.where(inside, (flat - low) * bins / (high - low), 0).to(torch.int64).clamp(max=bins - 1)
    counted = (place == torch.arange(bins, device=x.device).unsqueeze(1)) & inside  # [bins, n]
    return counted.sum(1).to(x.dtype)
