"""Layers that compute each element by itself."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bridge.engine_file import dtypes
from layer_interpreter.table import LAYERS, broadcast, check_operands, layer, require, wide  # noqa: F401


@layer("ACTIVATION")
def _activation(trt: Any, layer: Any, x: Tensor) -> Tensor:
    operation, alpha, beta = layer.type.name, layer.alpha, layer.beta
    integer = x.dtype in (torch.int32, torch.int64) and operation == "RELU"
    require(x.is_floating_point() or integer, f"activation {operation} of {x.dtype}")
    return _ACTIVATIONS[operation](wide(x), alpha, beta).to(x.dtype)


def _elu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _selu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x > 0, beta * x, beta * alpha * torch.expm1(x.clamp(max=0)))


def _softplus(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.logaddexp(beta * x, torch.zeros_like(x))


def _gelu_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (0.044715 * x**3 + x)))


_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "RELU": lambda x, alpha, beta: x.clamp(min=0),
    "SIGMOID": lambda x, alpha, beta: torch.sigmoid(x),
    "TANH": lambda x, alpha, beta: torch.tanh(x),
    "LEAKY_RELU": lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x),
    "ELU": _elu,
    "SELU": _selu,
    "SOFTSIGN": lambda x, alpha, beta: x / (1 + x.abs()),
    "SOFTPLUS": _softplus,
    "CLIP": lambda x, alpha, beta: x.clamp(max=beta).clamp(min=alpha),
    "HARD_SIGMOID": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "SCALED_TANH": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "THRESHOLDED_RELU": lambda x, alpha, beta: torch.where(x > alpha, x, 0.0),
    "GELU_ERF": lambda x, alpha, beta: 0.5 * x * (1 + torch.erf(math.sqrt(0.5) * x)),
    "GELU_TANH": _gelu_tanh,
}


@layer("UNARY")
def _unary(trt: Any, layer: Any, x: Tensor) -> Tensor:
    operation = layer.op.name
    if operation == "NOT":
        require(x.dtype == torch.bool, f"NOT of {x.dtype}")
        return ~x
    if operation in ("ABS", "SIGN", "NEG") and x.dtype in (torch.int8, torch.int32, torch.int64):
        return {"ABS": torch.abs, "SIGN": torch.sign, "NEG": torch.neg}[operation](x)
    require(x.is_floating_point(), f"{operation} of {x.dtype}")
    result: Tensor = _UNARY[operation](wide(x))
    return result if result.dtype == torch.bool else result.to(x.dtype)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "EXP": torch.exp,
    "LOG": torch.log,
    "SQRT": torch.sqrt,
    "RECIP": torch.reciprocal,
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "SINH": torch.sinh,
    "COSH": torch.cosh,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "ASINH": torch.asinh,
    "ACOSH": torch.acosh,
    "ATANH": torch.atanh,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "SIGN": torch.sign,
    "ROUND": torch.round,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}


@layer("ELEMENTWISE")
def _elementwise(trt: Any, layer: Any, a: Tensor, b: Tensor) -> Tensor:
    operation = layer.op.name
    check_operands((a, b), operation)
    if operation in _LOGICAL:
        require(a.dtype == torch.bool, f"{operation} of {a.dtype}")
        return _LOGICAL[operation](a, b)
    fits = operation == "EQUAL" or a.dtype not in (torch.bool, torch.uint8)
    require(fits, f"{operation} of {a.dtype}")  # TensorRT fails to build it
    if operation in _COMPARISONS:
        return _COMPARISONS[operation](a, b)
    table = _FLOAT if a.is_floating_point() else _INTEGER
    return table[operation](wide(a), wide(b)).to(a.dtype)


def _integer_power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a.double(), b.double()).trunc()


_LOGICAL = {"AND": torch.logical_and, "OR": torch.logical_or, "XOR": torch.logical_xor}
_COMPARISONS = {"EQUAL": torch.eq, "GREATER": torch.gt, "LESS": torch.lt}
_EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": torch.add,
    "SUB": torch.subtract,
    "PROD": torch.multiply,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
}
_FLOAT = _EXACT | {"DIV": torch.divide, "POW": torch.pow, "FLOOR_DIV": lambda a, b: torch.floor(a / b)}
_INTEGER = _EXACT | {
    "DIV": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "POW": _integer_power,
    "FLOOR_DIV": lambda a, b: torch.div(a, b, rounding_mode="floor"),
}


@layer("SELECT")
def _select(trt: Any, layer: Any, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    require(condition.dtype == torch.bool, f"select by {condition.dtype}")
    require(a.dtype == b.dtype, f"select of {a.dtype} and {b.dtype}")
    broadcast((condition, a, b), "select")
    return torch.where(condition, a, b)


@layer("CAST")
def _cast(trt: Any, layer: Any, x: Tensor) -> Tensor:
    return x.to(dtypes.from_trt(layer.to_type).torch)


@layer("IDENTITY")
def _identity(trt: Any, layer: Any, x: Tensor) -> Tensor:
    return x


@layer("PARAMETRIC_RELU")
def _parametric_relu(trt: Any, layer: Any, x: Tensor, slopes: Tensor) -> Tensor:
    fits = x.dim() == slopes.dim() and all(s in (1, n) for s, n in zip(slopes.shape, x.shape, strict=True))
    require(fits, f"slopes {tuple(slopes.shape)} of {tuple(x.shape)}")
    return torch.where(x >= 0, x, x * slopes)


@layer("SCALE")
def _scale(trt: Any, layer: Any, x: Tensor) -> Tensor:
    def weights(values: Any, default: float) -> Tensor:
        flat = torch.as_tensor(values).float()
        if not flat.numel():
            return torch.tensor(default)
        if layer.mode == trt.ScaleMode.UNIFORM:
            return flat.reshape(())
        if layer.mode == trt.ScaleMode.CHANNEL:
            return flat.reshape([-1 if axis == layer.channel_axis else 1 for axis in range(x.dim())])
        return flat.reshape(x.shape[1:])

    require(x.dim() >= 3, f"scale of {x.dim()} dimensions")
    scaled = wide(x) * weights(layer.scale, 1.0) + weights(layer.shift, 0.0)
    return scaled.pow(weights(layer.power, 1.0)).to(x.dtype)
