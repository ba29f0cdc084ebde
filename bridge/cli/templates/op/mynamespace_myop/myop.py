"""The reference of mynamespace::myop: what the op is, on every device."""

import torch
from torch import Tensor

import bridge
from bridge import Floating, require

Sample = tuple[str, list[Tensor], dict[str, float]]  # what to call it, arguments, keyword arguments


@bridge.op("mynamespace::myop")
def myop(x: Floating, limit: float = 1.0) -> Tensor:
    """limit * tanh(x / limit), element by element: x where it is small, and never beyond the limit.

    Args:
        x: any shape; float32, float16 or bfloat16 (float64 on CPU).
        limit: 1e-30 to 1e30, in the units of x.
    Returns:
        A dense tensor of the shape and dtype of x. Reduced precision is computed in float32 and rounded once.
    Raises:
        OpInputError: x is of another dtype, or limit is out of its range.
    """
    require(1e-30 <= limit <= 1e30, f"myop: limit is {limit}, expected 1e-30 to 1e30")
    wide = x if x.dtype == torch.float64 else x.float()
    return (limit * torch.tanh(wide / limit)).to(x.dtype)  # the formula


def myop_samples() -> list[Sample]:
    """Calls for the checks: odd shapes, and an empty one. `bridge test` and `bridge sanitize` find them, too."""
    shapes = [(7,), (3, 5, 2), (1, 129), (0, 4)]
    return [(f"shape {list(shape)}", [torch.randn(shape)], {"limit": 0.5}) for shape in shapes]
