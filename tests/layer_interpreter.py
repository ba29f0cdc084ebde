"""Evaluates a TensorRT network of the layers that native lowerings are made of, with torch on the CPU.

It follows TensorRT's documentation of each layer, not its kernels: what it shows is that the network computes the right
thing, given that TensorRT does.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt import dtypes


def interpret(
    trt: Any, network: Any, inputs: Mapping[str, Tensor], calls: Mapping[str, Any] | None = None
) -> list[Tensor]:
    """The network's outputs. inputs: by the names of the network's. calls: of plugin layers, by their names."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    values = dict(inputs)

    def evaluate(layer: Any) -> None:
        kind = layer.type.name
        if kind not in _EVALUATE:
            raise NotImplementedError(f"the interpreter has no {kind} layer")
        operands = [value(layer.get_input(i)) for i in range(layer.num_inputs)]  # before it has another class
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        if kind == "PLUGIN_V3":
            results = _plugin((calls or {})[layer.name], operands)
        else:
            layer.__class__ = getattr(trt, _CLASSES[kind])
            results = _EVALUATE[kind](trt, layer, *operands)
        for tensor, result in zip(outputs, results if isinstance(results, tuple) else (results,), strict=True):
            _check(tensor, result)
            values[tensor.name] = result

    def value(tensor: Any) -> Tensor | None:
        if tensor is None:
            return None
        if tensor.name not in values:
            evaluate(makers[tensor.name])
        return values[tensor.name]

    return [value(network.get_output(i)) for i in range(network.num_outputs)]


def _plugin(call: Any, operands: list[Tensor]) -> Any:
    """What the op's reference makes of the tensors that are present."""
    given = iter(operands)
    return call.op.run(*(next(given) if present else None for present in call.tensors), **call.attributes)


def _check(tensor: Any, value: Tensor) -> None:
    """What TensorRT says of the tensor holds for its value."""
    shape, dtype = tuple(tensor.shape), dtypes.from_trt(tensor.dtype)
    assert dtype.torch == value.dtype, f"{tensor.name}: {dtype.name}, computed {value.dtype}"
    assert len(shape) == value.dim(), f"{tensor.name}: {shape}, computed {tuple(value.shape)}"
    fits = all(known in (-1, extent) for known, extent in zip(shape, value.shape, strict=True))
    assert fits, f"{tensor.name}: {shape}, computed {tuple(value.shape)}"


def _activation(trt: Any, layer: Any, x: Tensor) -> Tensor:
    wide, alpha, beta = x.float(), layer.alpha, layer.beta
    kinds: dict[str, Callable[[], Tensor]] = {
        "RELU": lambda: wide.clamp(min=0),
        "LEAKY_RELU": lambda: torch.where(wide >= 0, wide, alpha * wide),
        "CLIP": lambda: wide.clamp(max=beta).clamp(min=alpha),
    }
    return kinds[layer.type.name]().to(x.dtype)


_ELEMENTWISE = {
    "SUM": torch.add,
    "SUB": torch.subtract,
    "PROD": torch.multiply,
    "DIV": torch.divide,
    "MIN": torch.minimum,
}


def _elementwise(trt: Any, layer: Any, a: Tensor, b: Tensor) -> Tensor:
    assert a.dim() == b.dim() and a.dtype == b.dtype, (a.shape, b.shape, a.dtype, b.dtype)
    return _ELEMENTWISE[layer.op.name](a, b)


def _constant(trt: Any, layer: Any) -> Tensor:
    return torch.from_numpy(layer.weights.copy()).reshape(tuple(layer.shape))


def _shuffle(trt: Any, layer: Any, x: Tensor, shape: Tensor | None = None) -> Tensor:
    assert not layer.zero_is_placeholder and list(layer.first_transpose) == list(range(8))
    wanted = list(layer.reshape_dims) if shape is None else shape.tolist()
    if x.numel() == 0 and -1 in wanted:
        wanted[wanted.index(-1)] = 0
    return x.reshape(wanted)


def _slice(trt: Any, layer: Any, x: Tensor, start: Any = None, shape: Tensor | None = None) -> Tensor:
    sizes = list(layer.shape) if shape is None else shape.tolist()
    for axis, (first, size, step) in enumerate(zip(layer.start, sizes, layer.stride, strict=True)):
        assert size == 0 or 0 <= first + (size - 1) * step < x.shape[axis], "slices stay inside"
        x = x.index_select(axis, first + step * torch.arange(size))
    return x


def _concatenation(trt: Any, layer: Any, *tensors: Tensor) -> Tensor:
    return torch.cat(tensors, layer.axis)


def _gather(trt: Any, layer: Any, table: Tensor, indices: Tensor) -> Tensor:
    assert layer.axis == 0
    return torch.nn.functional.embedding(indices, table)


def _cast(trt: Any, layer: Any, x: Tensor) -> Tensor:
    return x.to(dtypes.from_trt(layer.to_type).torch)


def _fill(trt: Any, layer: Any, count: Tensor, start: Tensor, step: Tensor) -> Tensor:
    return start + step * torch.arange(int(count))


def _shape(trt: Any, layer: Any, x: Tensor) -> Tensor:
    return torch.tensor(x.shape)


def _matrix_multiply(trt: Any, layer: Any, a: Tensor, b: Tensor) -> Tensor:
    assert layer.op0 == layer.op1 == trt.MatrixOperation.NONE
    return (a.float() @ b.float()).to(a.dtype)


def _grid_sample(trt: Any, layer: Any, x: Tensor, grid: Tensor) -> Tensor:
    assert layer.sample_mode == trt.SampleMode.FILL and layer.interpolation_mode == trt.InterpolationMode.LINEAR
    if x.numel() == 0 or grid.numel() == 0:
        return x.new_zeros(*x.shape[:2], *grid.shape[1:3])
    return torch.nn.functional.grid_sample(x, grid, align_corners=layer.align_corners)


def _rotary_embedding(trt: Any, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, ids: Tensor | None = None) -> Tensor:
    rotary = layer.rotary_embedding_dim or x.shape[3]
    cos, sin = ((table if ids is None else table[ids]).unsqueeze(1).float() for table in (cos, sin))
    wide = x[..., :rotary].float()
    first, second = (wide[..., 0::2], wide[..., 1::2]) if layer.interleaved else wide.chunk(2, -1)
    parts = first * cos - second * sin, second * cos + first * sin
    joined = torch.stack(parts, -1).flatten(-2) if layer.interleaved else torch.cat(parts, -1)
    return torch.cat((joined.to(x.dtype), x[..., rotary:]), -1)


def _identity(trt: Any, layer: Any, x: Tensor) -> Tensor:
    return x


_EVALUATE: dict[str, Callable[..., Any]] = {
    "PLUGIN_V3": _plugin,
    "IDENTITY": _identity,
    "ACTIVATION": _activation,
    "ELEMENTWISE": _elementwise,
    "CONSTANT": _constant,
    "SHUFFLE": _shuffle,
    "SLICE": _slice,
    "CONCATENATION": _concatenation,
    "GATHER": _gather,
    "CAST": _cast,
    "FILL": _fill,
    "SHAPE": _shape,
    "MATRIX_MULTIPLY": _matrix_multiply,
    "GRID_SAMPLE": _grid_sample,
    "ROTARY_EMBEDDING": _rotary_embedding,
}
_CLASSES = {kind: "I" + "".join(word.capitalize() for word in kind.split("_")) + "Layer" for kind in _EVALUATE} | {
    "ELEMENTWISE": "IElementWiseLayer"
}
