"""Reshapes of tensors that may be empty, such as those of an empty batch."""

from types import ModuleType
from typing import Any


def keep_zero_extents(trt: ModuleType, network: Any) -> None:
    """Makes an extent of 0 in a computed shape mean 0.

    TensorRT copies the input's extent at that place instead, unless it is told, which torch_tensorrt does not do.
    """
    for layer in map(network.get_layer, range(network.num_layers)):
        if layer.type == trt.LayerType.SHUFFLE and layer.num_inputs > 1:
            layer.__class__ = trt.IShuffleLayer
            layer.zero_is_placeholder = False
