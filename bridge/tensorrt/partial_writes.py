"""Writes to a part of a tensor, such as mask[-3:] = 1, where its extents are dynamic.

PyTorch makes a copy of the value, of the part's shape, and finds the part's indices by remainders of extents.
"""

import operator
from typing import Any

import numpy
import torch
from torch.fx import Node

from bridge.tensorrt.layers import Layers

COPY = torch.ops.aten.copy.default
REMAINDER = operator.mod


def is_of_number(node: Node) -> bool:
    """Whether a node copies one number to every element of a part; torch_tensorrt gives the number itself."""
    source = node.args[1].meta.get("val") if isinstance(node.args[1], Node) else None
    return isinstance(source, torch.Tensor) and source.dim() == 0 < node.meta["val"].dim()


def convert_copy(layers: Layers, part: Any, number: Any) -> Any:
    """The number, for every element of the part, in its dtype."""
    single = layers.reshape(layers.cast(number, part.dtype), [1] * len(part.shape))
    return layers.expand(single, layers.extents(part))


def convert_remainder(layers: Layers, a: Any, b: Any) -> Any:
    """a % b of extents and numbers, with the sign of b as in Python; torch_tensorrt gives it that of a.

    Right whether TensorRT rounds the quotient of integers down or towards zero.
    """
    dividend, divisor = (layers.cast(_tensor(layers, value), layers.trt.DataType.INT64) for value in (a, b))
    rest = dividend
    for shift in (None, divisor):
        rest = rest if shift is None else layers.add(rest, shift)
        rest = layers.subtract(rest, layers.multiply(layers.elementwise("FLOOR_DIV", rest, divisor), divisor))
    return rest


def _tensor(layers: Layers, value: Any) -> Any:
    return layers.constant([value], numpy.int64) if isinstance(value, int) else value
