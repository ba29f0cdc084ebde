"""Type promotion: casts operands to the dtype that PyTorch computes in.

PyTorch promotes the operands of a pointwise operator: integers beside 0.5 become floats, and so do the integers of a
sine. torch_tensorrt's converters round the scalar to the tensor's dtype instead, so that `x > 0.5` of integers becomes
`x > 0`. Or they pass TensorRT a dtype that the layer does not take.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Promotion
from torch._prims_common import elementwise_dtypes
from torch.utils import _pytree as pytree

Decomposition = Callable[..., Any]

_FLOATING = (
    "acos acosh asin asinh atan atanh cos cosh erf exp expm1 log log10 log1p log2 reciprocal rsqrt sigmoid sin sinh"
    " sqrt tan tanh"
)
_ROUNDING = ("ceil", "floor", "round", "trunc")  # no-op for integers and bool
_ARITHMETIC = "add sub mul pow maximum minimum fmod remainder clamp clamp_min clamp_max where rsub"
_COMPARISONS = "eq ne lt le gt ge"
_REDUCTIONS = "amax amin max min"  # for int32, which torch_tensorrt computes in float32


def promoted(table: Mapping[Any, Decomposition]) -> dict[Any, Decomposition]:
    """The table, with decompositions that cast the operands first, and then apply the table's decomposition."""
    aten = torch.ops.aten
    promotions = dict.fromkeys((*_FLOATING.split(), "div", "atan2"), Promotion.INT_TO_FLOAT)
    promotions |= dict.fromkeys(_ARITHMETIC.split(), Promotion.DEFAULT)
    promotions |= dict.fromkeys(_COMPARISONS.split(), Promotion.ALWAYS_BOOL)
    decompositions: dict[Any, Decomposition] = {}
    for name, promotion in promotions.items():
        for op in _pointwise(getattr(aten, name)):
            decompositions[op] = _Pointwise(op, promotion, table.get(op))
    for name in _ROUNDING:
        op = getattr(aten, name).default
        decompositions[op] = _rounding(op, table.get(op))
    for name in _REDUCTIONS.split():
        for op in _overloads(getattr(aten, name), "default", "dim"):
            decompositions[op] = _in_int64(op, table.get(op))
    return {**table, **decompositions}


def _overloads(packet: Any, *names: str) -> list[Any]:
    return [getattr(packet, name) for name in names if name in packet.overloads()]


def _pointwise(packet: Any) -> list[Any]:
    return _overloads(
        packet, "default", "Tensor", "Scalar", "Tensor_Tensor", "Tensor_Scalar", "Tensor_mode", "Scalar_mode", "self"
    )


class _Pointwise:
    """Casts the operands of a pointwise operator to the dtype that PyTorch computes in."""

    def __init__(self, op: Any, promotion: Any, fallback: Decomposition | None) -> None:
        self._op, self._promotion, self._fallback = op, promotion, fallback

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        first = 1 if self._op.overloadpacket == torch.ops.aten.where else 0  # the condition is not promoted
        operands = [leaf for leaf in pytree.tree_leaves(args[first:]) if isinstance(leaf, (Tensor, *_SCALARS))]
        dtype = self._dtype(operands, kwargs)
        if dtype == torch.bool:
            result = _logical(self._op, operands)
            if result is not NotImplemented:
                return result
        elif any(isinstance(leaf, Tensor) and leaf.dtype != dtype for leaf in operands):
            cast_operands = pytree.tree_map(lambda leaf: _cast(leaf, dtype), args[first:])
            return self._op(*args[:first], *cast_operands, **kwargs)
        return self._fallback(*args, **kwargs) if self._fallback else NotImplemented

    def _dtype(self, operands: list[Any], kwargs: Mapping[str, Any]) -> torch.dtype:
        rounds = kwargs.get("rounding_mode") is not None  # an integer division stays integer
        promotion = Promotion.DEFAULT if self._promotion == Promotion.ALWAYS_BOOL or rounds else self._promotion
        return elementwise_dtypes(*operands, type_promotion_kind=promotion)[1]


_SCALARS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.dtype != dtype else leaf


def _logical(op: Any, operands: list[Any]) -> Any:
    """Arithmetic and comparison of booleans, by logical layers: TensorRT has no other for them."""
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


def _rounding(op: Any, fallback: Decomposition | None) -> Decomposition:
    def decomposition(x: Tensor) -> Any:
        if not x.is_floating_point():
            return x.clone()
        if op == torch.ops.aten.trunc.default:  # torch_tensorrt's is wrong in bfloat16
            return torch.where(x < 0, x.ceil(), x.floor())
        return fallback(x) if fallback else NotImplemented

    return decomposition


def _in_int64(op: Any, fallback: Decomposition | None) -> Decomposition:
    def decomposition(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.dtype == torch.int32:
            result = op(x.long(), *args, **kwargs)
            return result.int() if isinstance(result, Tensor) else (result[0].int(), result[1])
        return fallback(x, *args, **kwargs) if fallback else NotImplemented

    return decomposition
