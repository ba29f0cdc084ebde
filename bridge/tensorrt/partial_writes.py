"""Writes to a part of a tensor, such as mask[-3:] = 1, where its extents are dynamic.

PyTorch makes a copy of the value, of the part's shape.
"""

from typing import Any

import torch
from torch.fx import Node

from bridge.tensorrt.layers import Layers

COPY = torch.ops.aten.copy.default


def is_of_number(node: Node) -> bool:
    """Whether a node copies one number to every element of a part; torch_tensorrt gives the number itself."""
    source = node.args[1].meta.get("val") if isinstance(node.args[1], Node) else None
    return isinstance(source, torch.Tensor) and source.dim() == 0 < node.meta["val"].dim()


def convert_copy(layers: Layers, part: Any, number: Any) -> Any:
    """The number, for every element of the part, in its dtype."""
    single = layers.reshape(layers.cast(number, part.dtype), [1] * len(part.shape))
    return layers.expand(single, layers.extents(part))
