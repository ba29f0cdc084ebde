"""Powers of integers, quotients and remainders.

TensorRT computes powers in floating point; PyTorch's integers wrap. torch_tensorrt takes the sign of a quotient from
the product of the operands: integers overflow there, and small fractions become 0.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Number = Tensor | int | float
_INTEGERS = (torch.int32, torch.int64)


def power(base: _Number, exponent: _Number) -> Any:
    """A power of integers of one dtype, by squaring, because multiplications wrap. One operand may be a Python number.

    A negative exponent gives 1 over the power, rounded toward 0, as in PyTorch.
    """
    tensor = base if isinstance(base, Tensor) else exponent
    if not isinstance(tensor, Tensor) or tensor.dtype not in _INTEGERS:
        return NotImplemented
    if isinstance(exponent, int):
        return _fixed_power(tensor, exponent) if exponent >= 0 else NotImplemented  # PyTorch raises
    base, exponent = (x if isinstance(x, Tensor) else torch.full_like(tensor, x) for x in (base, exponent))
    return torch.where(exponent < 0, _inverse_power(base, exponent), _power_by_bits(base, exponent))


def _fixed_power(base: Tensor, exponent: int) -> Tensor:
    result = None
    while exponent:
        if exponent % 2:
            result = base if result is None else result * base
        exponent //= 2
        base = base * base if exponent else base
    return torch.ones_like(base) if result is None else result.clone()


def _power_by_bits(base: Tensor, exponent: Tensor) -> Tensor:
    result = torch.ones_like(base)
    bits = torch.iinfo(exponent.dtype).bits - 1
    for bit in range(bits):
        rest = torch.floor_divide(exponent, 2)
        result = torch.where(exponent - 2 * rest > 0, base, 1) * result
        exponent = rest
        base = base * base if bit < bits - 1 else base
    return result


def _inverse_power(base: Tensor, exponent: Tensor) -> Tensor:
    odd = exponent - 2 * torch.floor_divide(exponent, 2) > 0
    of_minus_one = torch.where(odd, -1, 1)
    return torch.where(base == 1, 1, torch.where(base == -1, of_minus_one, 0)).to(base.dtype)


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Computes 16-bit floats in float32: a rounded quotient may reach the next integer."""

    @functools.wraps(function)
    def wide(a: _Number, b: _Number, **settings: Any) -> Any:
        dtype = (a if isinstance(a, Tensor) else b).dtype  # type: ignore[union-attr]
        if dtype not in (torch.float16, torch.bfloat16):
            return function(a, b, **settings)
        operands = (x.float() if isinstance(x, Tensor) else x for x in (a, b))
        result = function(*operands, **settings)
        return result if result is NotImplemented else result.to(dtype)

    return wide


@_in_float32
def remainder(a: _Number, b: _Number) -> Any:
    """The remainder with the sign of b."""
    if _has_integers(a, b):
        return a - torch.floor_divide(a, b) * b
    rest = fmod(a, b)
    return torch.where(_have_opposite_signs(rest, b), rest + b, rest)


@_in_float32
def fmod(a: _Number, b: _Number) -> Any:
    """The remainder with the sign of a; a itself for an infinite b."""
    if _has_integers(a, b):
        rest = remainder(a, b)
        return torch.where(_have_opposite_signs(rest, a), rest - b, rest)
    quotient: Any = a / b
    quotient = quotient.trunc()
    return torch.where(quotient == 0, a, a - quotient * b)


@_in_float32
def divide(a: _Number, b: _Number, *, rounding_mode: str | None) -> Any:
    """The quotient rounded toward 0; no other rounding mode."""
    if rounding_mode != "trunc":
        return NotImplemented
    if not _has_integers(a, b):
        quotient: Any = a / b
        return quotient.trunc()
    quotient = torch.floor_divide(a, b)
    return torch.where(_have_opposite_signs(a - quotient * b, a), quotient + 1, quotient)


def negative(x: Tensor) -> Any:
    """-x of integers, which torch_tensorrt computes in float32."""
    return x * -1 if x.dtype in _INTEGERS else NotImplemented


def _have_opposite_signs(rest: Tensor, operand: Any) -> Any:
    """Whether a remainder and an operand have opposite signs."""
    if not isinstance(operand, Tensor):
        return rest < 0 if operand > 0 else rest > 0
    return torch.where(rest < 0, operand > 0, torch.logical_and(rest > 0, operand < 0))


def _has_integers(a: _Number, b: _Number) -> bool:
    tensor = a if isinstance(a, Tensor) else b
    return isinstance(tensor, Tensor) and tensor.dtype in _INTEGERS


_ATEN = torch.ops.aten
DECOMPOSITIONS: dict[Any, Any] = {
    _ATEN.pow.Tensor_Tensor: power,
    _ATEN.pow.Tensor_Scalar: power,
    _ATEN.pow.Scalar: power,
    _ATEN.remainder.Tensor: remainder,
    _ATEN.remainder.Scalar: remainder,
    _ATEN.fmod.Tensor: fmod,
    _ATEN.fmod.Scalar: fmod,
    _ATEN.div.Tensor_mode: divide,
    _ATEN.div.Scalar_mode: divide,
    _ATEN.neg.default: negative,
}
