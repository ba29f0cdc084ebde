"""The table of functions that evaluate each type of layer; the modules beside this one fill it."""

from collections.abc import Callable, MutableMapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Evaluate: TypeAlias = Callable[..., Any]  # of the TensorRT module, the layer and its input tensors
Scope: TypeAlias = MutableMapping[str, Tensor]

LAYERS: dict[str, Evaluate] = {}


class Undefined(AssertionError):
    """A layer needs what TensorRT's documentation forbids or leaves undefined."""


def layer(layer_type: str) -> Callable[[Evaluate], Evaluate]:
    """Adds a function to the table, for layers of this type."""

    def add(function: Evaluate) -> Evaluate:
        LAYERS[layer_type] = function
        return function

    return add


def class_of(layer_type: str) -> str:
    """The class of layers of this type in TensorRT's Python API."""
    words = "".join(word.capitalize() for word in layer_type.split("_"))
    return f"I{_CLASS_WORDS.get(layer_type, words)}Layer"


_CLASS_WORDS = {
    "ELEMENTWISE": "ElementWise",
    "SOFTMAX": "SoftMax",
    "TOPK": "TopK",
    "PARAMETRIC_RELU": "ParametricReLU",
    "CONDITIONAL_INPUT": "IfConditionalInput",
    "CONDITIONAL_OUTPUT": "IfConditionalOutput",
    "NMS": "NMS",
    "LRN": "LRN",
    "RAGGED_SOFTMAX": "RaggedSoftMax",
    "PLUGIN_V2": "PluginV2",
    "KV_CACHE_UPDATE": "KVCacheUpdate",
    "MOE": "MoE",
}


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Undefined(what)


def wide(x: Tensor) -> Tensor:
    """16-bit floats as float32, to compute with."""
    return x.float() if x.is_floating_point() else x


def axes_of(mask: int) -> list[int]:
    """The axes whose bits are set."""
    return [axis for axis in range(8) if mask >> axis & 1]


def check_operands(tensors: tuple[Tensor, ...], name: str) -> None:
    """Undefined: operands differ in rank or dtype, or extents differ and are not 1."""
    require(len({t.dtype for t in tensors}) == 1, f"{name}: dtypes {[t.dtype for t in tensors]}")
    broadcast(tensors, name)


def broadcast(tensors: tuple[Tensor, ...], name: str) -> None:
    """TensorRT broadcasts extents of 1, not ranks."""
    shapes = [tuple(t.shape) for t in tensors]
    require(len({len(shape) for shape in shapes}) == 1, f"{name}: shapes {shapes}")
    for extents in zip(*shapes, strict=True):
        require(len(set(extents) - {1}) <= 1, f"{name}: shapes {shapes}")


def integers(x: Tensor) -> list[int]:
    require(x.dtype in (torch.int32, torch.int64), f"{x.dtype} where integers are expected")
    return [int(value) for value in x.reshape(-1)]
