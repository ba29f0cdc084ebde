"""deform_conv2d_fused as the layers of deform_conv2d, and those that the op joins with it.

The mask is sigmoid in float32; sums are rounded to the dtype of x before the activation.
"""

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.native_lowerings import deform_conv2d, relu
from bridge.tensorrt.plugins.fields import Call

DEFAULTS = deform_conv2d.DEFAULTS


def refusal(call: Call, trt: ModuleType) -> str | None:
    """Why a call cannot be converted: as deform_conv2d's."""
    return deform_conv2d.refusal_of_channels(call, trt, "prediction")


def add(layers: Layers, tensors: Sequence[Any | None], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Offsets and the mask of its logits, deform_conv2d, then the activation."""
    x, prediction, weight, bias = tensors
    assert prediction is not None
    offset, mask = prediction, None
    if attributes["modulated"]:
        planes = prediction.shape[1] // 3
        logits = layers.slice(prediction, 1, 2 * planes, planes)
        offset = layers.slice(prediction, 1, 0, 2 * planes)
        mask = layers.activation(layers.cast(logits, layers.trt.DataType.FLOAT), "SIGMOID")
    (y,) = deform_conv2d.add(layers, (x, offset, weight, bias, mask), attributes)
    if attributes["activation"] == "none":
        return (y,)
    slope = 0.0 if attributes["activation"] == "relu" else attributes["negative_slope"]
    return relu.add(layers, (y,), {"negative_slope": slope, "max_value": math.inf})
