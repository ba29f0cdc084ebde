"""Slices of a dimension whose extent depends on values, such as the first hundred boxes after nms.

torch_tensorrt's converter takes the end of the slice for the extent, which is wrong if there are fewer elements.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from bridge.graph.symbolic import depends_on_values
from bridge.tensorrt.converters.layers import Layers

SLICE = torch.ops.aten.slice.Tensor


def slices_value_dependent(node: Node) -> bool:
    """Whether a node slices a dimension whose extent depends on values."""
    if node.target is not SLICE or not isinstance(node.args[0], Node):
        return False
    dim = _bounds(node.args, node.kwargs)[0]
    return depends_on_values(node.args[0].meta["val"].shape[dim])


def refusal(node: Node) -> str | None:
    """Why such a slice cannot be converted; None if it can, or for other nodes."""
    if not slices_value_dependent(node):
        return None
    _, start, end, step = _bounds(node.args, node.kwargs)
    if start == 0 and step == 1 and isinstance(end, int) and end >= 0:
        return None
    text = f"[{start}:{'' if end == sys.maxsize else end}{'' if step == 1 else f':{step}'}]"
    return f"it takes {text} of an extent that depends on values; [:n], for a number n, can be converted"


def convert_slice(layers: Layers, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The elements up to the end of the slice, or as many as there are."""
    x = args[0]
    dim, _, end, _ = _bounds(args, kwargs)
    if end == sys.maxsize:
        return x
    shape = layers.extents(x)
    shape[dim] = layers.elementwise("MIN", shape[dim], layers.constant([end], "int64"))
    return layers.first(x, shape)


def _bounds(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, Any, Any, Any]:
    """Dimension, start, end and step."""
    names = ("dim", "start", "end", "step")
    given = dict(zip(names, args[1:], strict=False)) | dict(kwargs)
    start, end = given.get("start"), given.get("end")
    return given.get("dim", 0), start or 0, sys.maxsize if end is None else end, given.get("step", 1)
