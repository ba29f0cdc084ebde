"""Arithmetic on dynamic extents.

Integers are int64, because Python's are exact. Floats computed from extents, such as h * 0.5 in x * (h * 0.5), are
float32. Extents are never computed from such floats (see float_extents.py).
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch.fx import Node

from bridge.engine_file import dtypes
from bridge.tensorrt.converters.float_extents import lookup, ramp, scaled, steps
from bridge.tensorrt.converters.layers import Layers


@dataclass(frozen=True)
class Rule:
    """How one operator is converted.

    add: takes Layers, the arguments and keyword arguments of a node; returns a tensor or a scalar.
    fits: whether a node is converted by this rule.
    """

    target: Any
    add: Callable[..., Any]
    fits: Callable[[Node], bool] = lambda node: True

    @property
    def title(self) -> str:
        """The name of its layers."""
        return str(getattr(self.target, "__name__", self.target)).removesuffix(".default").upper()

    def convert(self, layers: Layers, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Adds the layers for a node's arguments; returns the result."""
        return self.add(layers, *args, **kwargs)


class Scalars:
    """Casts Python numbers and tensors of one element to operands of one dtype."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.integer, self.floating = layers.trt.DataType.INT64, layers.trt.DataType.FLOAT

    def is_float(self, value: Any) -> bool:
        """Whether it is a Python float or a floating-point tensor."""
        if isinstance(value, (bool, int, float)):
            return isinstance(value, float)
        row = dtypes.from_trt(value.dtype)
        return row is not None and row.torch.is_floating_point

    def as_integer(self, value: Any) -> Any:
        """A tensor of one int64."""
        return self._cast(value, self.integer)

    def as_float(self, value: Any) -> Any:
        """A tensor of one float32."""
        return self._cast(value, self.floating)

    def as_bool(self, value: Any) -> Any:
        """A tensor of one boolean."""
        return self._cast(value, self.layers.trt.DataType.BOOL)

    def promote(self, *values: Any) -> list[Any]:
        """All as float32 if one is a float, else all as int64."""
        convert = self.as_float if any(map(self.is_float, values)) else self.as_integer
        return [convert(value) for value in values]

    def _cast(self, value: Any, dtype: Any) -> Any:
        if isinstance(value, (bool, int, float)):
            numpy_dtype = numpy.float32 if isinstance(value, float) else numpy.int64
            value = self.layers.constant([value], numpy_dtype)
        if tuple(value.shape) != (1,):
            value = self.layers.reshape(value, [1])
        return self.layers.cast(value, dtype)


def elementwise(operation: str) -> Callable[..., Any]:
    """A left fold over two scalars or more. `operation` names a member of trt.ElementWiseOperation."""

    def add(layers: Layers, *values: Any) -> Any:
        return functools.reduce(functools.partial(layers.elementwise, operation), Scalars(layers).promote(*values))

    return add


def _sum(layers: Layers, values: Sequence[Any]) -> Any:
    return elementwise("SUM")(layers, *values)


def _unary(operation: str, floating: bool = False) -> Callable[..., Any]:
    def add(layers: Layers, value: Any) -> Any:
        scalars = Scalars(layers)
        operand = scalars.as_float(value) if floating else scalars.promote(value)[0]
        return layers.output(layers.network.add_unary(operand, getattr(layers.trt.UnaryOperation, operation)))

    return add


def negate(layers: Layers, value: Any) -> Any:
    """-value."""
    return elementwise("SUB")(layers, 0, value)


def _absolute(layers: Layers, value: Any) -> Any:
    return elementwise("MAX")(layers, value, negate(layers, value))


def _true_divide(layers: Layers, a: Any, b: Any) -> Any:
    scalars = Scalars(layers)
    return layers.divide(scalars.as_float(a), scalars.as_float(b))


def floor_divide(layers: Layers, a: Any, b: Any) -> Any:
    """a // b rounded down, however TensorRT rounds negative quotients."""
    scalars = Scalars(layers)
    dividend, divisor = scalars.promote(a, b)
    if scalars.is_float(dividend):
        return layers.elementwise("FLOOR_DIV", dividend, divisor)
    rest = remainder(layers, dividend, divisor)
    return layers.elementwise("DIV", layers.subtract(dividend, rest), divisor)


def remainder(layers: Layers, a: Any, b: Any) -> Any:
    """a % b of integers, with the sign of b as in Python; torch_tensorrt gives it that of a.

    Right whether TensorRT rounds the quotient of integers down or towards zero.
    """
    scalars = Scalars(layers)
    rest, divisor = scalars.as_integer(a), scalars.as_integer(b)
    for is_second in (False, True):
        rest = layers.add(rest, divisor) if is_second else rest
        rest = layers.subtract(rest, layers.multiply(layers.elementwise("FLOOR_DIV", rest, divisor), divisor))
    return rest


def _power(layers: Layers, base: Any, exponent: Any) -> Any:
    if isinstance(exponent, int) and 0 < exponent <= 8:
        return elementwise("PROD")(layers, *[base] * exponent)
    scalars = Scalars(layers)
    return layers.elementwise("POW", scalars.as_float(base), scalars.as_float(exponent))


def compare(operation: str, negated: bool = False) -> Callable[..., Any]:
    """A comparison of two scalars, or its negation."""

    def add(layers: Layers, a: Any, b: Any) -> Any:
        result = layers.elementwise(operation, *Scalars(layers).promote(a, b))
        return _not(layers, result) if negated else result

    return add


def _not(layers: Layers, value: Any) -> Any:
    condition = Scalars(layers).as_bool(value)
    return layers.output(layers.network.add_unary(condition, layers.trt.UnaryOperation.NOT))


def _logical(operation: str) -> Callable[..., Any]:
    def add(layers: Layers, a: Any, b: Any) -> Any:
        scalars = Scalars(layers)
        return layers.elementwise(operation, scalars.as_bool(a), scalars.as_bool(b))

    return add


def choose(layers: Layers, condition: Any, first: Any, second: Any) -> Any:
    """The first scalar if the condition holds, else the second."""
    scalars = Scalars(layers)
    return layers.output(layers.network.add_select(scalars.as_bool(condition), *scalars.promote(first, second)))


def _to_float(layers: Layers, value: Any) -> Any:
    return Scalars(layers).as_float(value)


def _log2(layers: Layers, value: Any) -> Any:
    return layers.multiply(_unary("LOG", floating=True)(layers, value), layers.constant([1 / math.log(2)]))


def _scaled(layers: Layers, extent: Any, factor: int, offset: int, divisor: int) -> Any:
    scaled_extent = elementwise("PROD")(layers, extent, factor) if factor != 1 else extent
    shifted = elementwise("SUM")(layers, scaled_extent, offset) if offset else scaled_extent
    return floor_divide(layers, shifted, divisor) if divisor != 1 else Scalars(layers).as_integer(shifted)


def _lookup(layers: Layers, table: Sequence[Any], *terms: tuple[Any, int, int]) -> Any:
    index = None
    for extent, low, count in terms:
        shifted = elementwise("SUB")(layers, extent, low)
        before = None if index is None else elementwise("PROD")(layers, index, count)
        index = shifted if before is None else layers.add(before, shifted)
    row = layers.constant(table, numpy.int64)
    value = layers.gather(row, Scalars(layers).as_integer(index))
    return layers.cast(value, layers.trt.DataType.BOOL) if isinstance(table[0], bool) else value


def _steps(layers: Layers, start: Any, end: Any, step: int) -> Any:
    return negate(layers, floor_divide(layers, elementwise("SUB")(layers, start, end), step))


def _ramp(layers: Layers, count: Any, start: Any, step: Any, dtype: torch.dtype) -> Any:
    scalars = Scalars(layers)
    trt_dtype = layers.trt.DataType.FLOAT if dtype.is_floating_point else layers.trt.DataType.INT64
    convert = scalars.as_float if dtype.is_floating_point else scalars.as_integer
    layer = layers.network.add_fill((1,), layers.trt.FillOperation.LINSPACE, trt_dtype)
    layer.set_input(0, scalars.as_integer(count))
    layer.set_input(1, layers.reshape(convert(start), []))
    layer.set_input(2, convert(step))
    return as_dtype(layers, layers.output(layer), dtype)


def as_dtype(layers: Layers, tensor: Any, dtype: torch.dtype | None) -> Any:
    """The tensor cast to a torch dtype; unchanged for None or a dtype that TensorRT lacks."""
    row = dtypes.from_torch(dtype) if dtype is not None else None
    return tensor if row is None else layers.cast(tensor, row.of(layers.trt))


SCALAR_RULES = (
    Rule(operator.add, elementwise("SUM")),
    Rule(operator.sub, elementwise("SUB")),
    Rule(operator.mul, elementwise("PROD")),
    Rule(operator.neg, negate),
    Rule(operator.abs, _absolute),
    Rule(operator.mod, remainder),
    Rule(operator.floordiv, floor_divide),
    Rule(operator.truediv, _true_divide),
    Rule(operator.pow, _power),
    Rule(operator.eq, compare("EQUAL")),
    Rule(operator.ne, compare("EQUAL", negated=True)),
    Rule(operator.gt, compare("GREATER")),
    Rule(operator.lt, compare("LESS")),
    Rule(operator.ge, compare("LESS", negated=True)),
    Rule(operator.le, compare("GREATER", negated=True)),
    Rule(operator.and_, _logical("AND")),
    Rule(operator.or_, _logical("OR")),
    Rule(torch.sym_not, _not),
    Rule(torch.sym_max, elementwise("MAX")),
    Rule(torch.sym_min, elementwise("MIN")),
    Rule(torch.sym_sum, _sum),
    Rule(torch.sym_ite, choose),
    Rule(torch.sym_float, _to_float),
    Rule(torch._sym_sqrt, _unary("SQRT", floating=True)),  # type: ignore[attr-defined]
    Rule(torch._sym_log2, _log2),  # type: ignore[attr-defined]
    Rule(scaled, _scaled),
    Rule(lookup, _lookup),
    Rule(steps, _steps),
    Rule(ramp, _ramp),
)
