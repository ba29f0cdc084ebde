"""The ReLU family: ReLU, leaky ReLU, ReLU6 and clipped leaky ReLU."""

import math

import torch
from torch import Tensor

from bridge.base.float32 import nearest
from bridge.core.op import op, require
from bridge.core.tensors import Floating


@op
def relu(x: Floating, negative_slope: float = 0.0, max_value: float = math.inf) -> Tensor:
    """min(x if x >= 0 else negative_slope * x, max_value), element by element; NaN stays NaN.

    Args:
        x: any shape; float32, float16 or bfloat16 (float64 on CPU).
        negative_slope: slope below zero; 0 is ReLU, 0.01 the usual leaky ReLU.
        max_value: upper limit, in the units of x; 6 is ReLU6.
    Returns:
        A dense tensor of the shape and dtype of x. Reduced precision is computed in float32 and rounded once.
    Raises:
        OpInputError: x is of another dtype, or an attribute is NaN.
    Source: Maas et al., "Rectifier nonlinearities improve neural network acoustic models", 2013; torch.nn.LeakyReLU.
    """
    require(
        not (math.isnan(negative_slope) or math.isnan(max_value)),
        f"relu: negative_slope and max_value must be numbers, got {negative_slope} and {max_value}",
    )
    wide = x if x.dtype == torch.float64 else x.float()
    leaky = torch.where(wide < 0, negative_slope * wide, wide)
    return leaky.clamp(max=nearest(max_value, wide.dtype)).to(x.dtype)
