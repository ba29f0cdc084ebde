"""Operands of one dtype, in which TensorRT computes.

PyTorch promotes the operands of a pointwise operator before it computes: an integer beside 0.5 becomes a float, the
integers of a sine too. torch_tensorrt's converters round the number to the tensor's dtype instead, so that `x > 0.5` of
integers becomes `x > 0`, or hand TensorRT a dtype that the layer does not take.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Kind
from torch._prims_common import elementwise_dtypes
from torch.utils import _pytree as pytree

Decomposition = Callable[..., Any]

_FLOATING = (
    "acos acosh asin asinh atan atanh cos cosh erf exp expm1 log log10 log1p log2 reciprocal rsqrt sigmoid sin sinh"
    " sqrt tan tanh"
)
_WHOLE = ("ceil", "floor", "round", "trunc")  # of integers, and of bool, the tensor itself
_ARITHMETIC = "add sub mul pow maximum minimum fmod remainder clamp clamp_min clamp_max where rsub"
_COMPARISONS = "eq ne lt le gt ge"
_EXACT = "amax amin max min"  # of int32, which torch_tensorrt computes in float32


def promoted(table: Mapping[Any, Decomposition]) -> dict[Any, Decomposition]:
    """The table, with decompositions that cast operands before what the table says of the operator."""
    aten = torch.ops.aten
    kinds = dict.fromkeys((*_FLOATING.split(), "div", "atan2"), Kind.INT_TO_FLOAT)
    kinds |= dict.fromkeys(_ARITHMETIC.split(), Kind.DEFAULT)
    kinds |= dict.fromkeys(_COMPARISONS.split(), Kind.ALWAYS_BOOL)
    ours: dict[Any, Decomposition] = {}
    for name, kind in kinds.items():
        for op in _pointwise(getattr(aten, name)):
            ours[op] = _Pointwise(op, kind, table.get(op))
    for name in _WHOLE:
        op = getattr(aten, name).default
        ours[op] = _of_whole(op, table.get(op))
    for name in _EXACT.split():
        for op in _overloads(getattr(aten, name), "default", "dim"):
            ours[op] = _exactly(op, table.get(op))
    return {**table, **ours}


def _overloads(packet: Any, *names: str) -> list[Any]:
    return [getattr(packet, name) for name in names if name in packet.overloads()]


def _pointwise(packet: Any) -> list[Any]:
    return _overloads(
        packet, "default", "Tensor", "Scalar", "Tensor_Tensor", "Tensor_Scalar", "Tensor_mode", "Scalar_mode", "self"
    )


class _Pointwise:
    """Casts the operands of a pointwise operator to the dtype that PyTorch computes in."""

    def __init__(self, op: Any, kind: Any, rest: Decomposition | None) -> None:
        self._op, self._kind, self._rest = op, kind, rest

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        operands = [leaf for leaf in pytree.tree_leaves(args[self._first :]) if isinstance(leaf, (Tensor, *_NUMBERS))]
        dtype = self._dtype(operands, kwargs)
        if dtype == torch.bool:
            result = _of_bools(self._op, operands)
            if result is not NotImplemented:
                return result
        elif any(isinstance(leaf, Tensor) and leaf.dtype != dtype for leaf in operands):
            head, tail = args[: self._first], pytree.tree_map(lambda leaf: _cast(leaf, dtype), args[self._first :])
            return self._op(*head, *tail, **kwargs)
        return self._rest(*args, **kwargs) if self._rest else NotImplemented

    @property
    def _first(self) -> int:
        return 1 if self._op.overloadpacket == torch.ops.aten.where else 0  # its condition is no operand

    def _dtype(self, operands: list[Any], kwargs: Mapping[str, Any]) -> torch.dtype:
        rounds = kwargs.get("rounding_mode") is not None  # a quotient of integers that stays one
        kind = Kind.DEFAULT if self._kind == Kind.ALWAYS_BOOL or rounds else self._kind
        return elementwise_dtypes(*operands, type_promotion_kind=kind)[1]


_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.dtype != dtype else leaf


def _of_bools(op: Any, operands: list[Any]) -> Any:
    """Arithmetic and comparison of truth values, which TensorRT has none of, by its logical layers."""
    name = op.overloadpacket.__name__
    if name not in _LOGIC or len(operands) != 2 or not isinstance(operands[0], Tensor):
        return NotImplemented
    a, b = operands
    b = b if isinstance(b, Tensor) else torch.full_like(a, bool(b))
    return _LOGIC[name](a, b)


_and, _or, _xor = torch.logical_and, torch.logical_or, torch.logical_xor
_not = torch.logical_not
_LOGIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": _or,
    "mul": _and,
    "maximum": _or,
    "minimum": _and,
    "eq": lambda a, b: _not(_xor(a, b)),
    "ne": _xor,
    "gt": lambda a, b: _and(a, _not(b)),
    "lt": lambda a, b: _and(_not(a), b),
    "ge": lambda a, b: _or(a, _not(b)),
    "le": lambda a, b: _or(_not(a), b),
}


def _of_whole(op: Any, rest: Decomposition | None) -> Decomposition:
    def decomposition(x: Tensor) -> Any:
        if not x.is_floating_point():
            return x.clone()
        if op == torch.ops.aten.trunc.default:  # torch_tensorrt's is no truncation in bfloat16
            return torch.where(x < 0, x.ceil(), x.floor())
        return rest(x) if rest else NotImplemented

    return decomposition


def _exactly(op: Any, rest: Decomposition | None) -> Decomposition:
    def decomposition(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.dtype == torch.int32:
            result = op(x.long(), *args, **kwargs)
            return result.int() if isinstance(result, Tensor) else (result[0].int(), result[1])
        return rest(x, *args, **kwargs) if rest else NotImplemented

    return decomposition
