"""relu as activation layers, which TensorRT fuses with their neighbours.

Values are the reference's, except for x NaN, or x -inf with a slope of 0: there the reference gives NaN, TensorRT a
number.
"""

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.native_lowerings import PLUGIN, Default
from bridge.tensorrt.plugins.fields import Call

_REASON = (
    "TensorRT fuses activation layers with their neighbours, which was faster in one model and wrong in another (H200,"
    " TensorRT-RTX 1.6.1); bridge.tune measures both, and compares their results"
)
DEFAULTS = {"tensorrt": Default(PLUGIN, _REASON), "tensorrt_rtx": Default(PLUGIN, _REASON)}


def refusal(call: Call, trt: ModuleType) -> str | None:
    """Why a call cannot be converted: an activation takes a finite slope."""
    slope = call.attributes["negative_slope"]
    return None if math.isfinite(slope) else f"negative_slope is {slope}, and TensorRT's activation takes a finite one"


def add(layers: Layers, tensors: Sequence[Any | None], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """RELU, LEAKY_RELU or CLIP; a limit that CLIP cannot set is a minimum."""
    (x,) = tensors
    slope, limit = attributes["negative_slope"], attributes["max_value"]
    if slope == 0 and 0 <= limit < math.inf:
        return (layers.activation(x, "CLIP", alpha=0.0, beta=limit),)
    y = layers.activation(x, "RELU") if slope == 0 else layers.activation(x, "LEAKY_RELU", alpha=slope)
    if limit < math.inf:
        y = layers.elementwise("MIN", y, layers.scalar_like(limit, y))
    return (y,)
