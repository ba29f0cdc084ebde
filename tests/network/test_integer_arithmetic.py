"""Powers, quotients and remainders at the ends of what a dtype holds: networks against eager.

The interpreter's integers wrap and its quotients are exact. That TensorRT's kernels do the same only a GPU can show.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import Tensor

_EDGES = (0, 1, -1, 2, -3, 7, 46341, 2**24 + 1, 2**31 - 1, -(2**31))
_WIDE_EDGES = (2**53 + 1, -(2**53) - 1, 3037000500, 2**63 - 1, -(2**63))
_EXPONENTS = (0, 1, 2, 3, 31, 33, 62, 63, 64, 2**31 - 1)


class _Model(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self._function(a, b)


def _assert_eager(function: Callable[..., Any], a: Tensor, b: Tensor, rtol: float = 0.0) -> None:
    model = _Model(function).eval()
    with interpreted():
        assert_same(ahead(model, (a, b))(a, b), model(a, b), rtol=rtol, atol=0.0)


def _pairs(first: tuple[int, ...], second: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    grid = torch.meshgrid(torch.tensor(first, dtype=dtype), torch.tensor(second, dtype=dtype), indexing="ij")
    return grid[0].flatten(), grid[1].flatten()


def _edges(dtype: torch.dtype) -> tuple[int, ...]:
    return _EDGES if dtype == torch.int32 else (*_EDGES, *_WIDE_EDGES)


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64), ids=str)
class TestIntegers:
    def test_powers_wrap(self, dtype: torch.dtype) -> None:
        def powers(a: Tensor, b: Tensor) -> Any:
            return *(a**k for k in (0, 1, 2, 5, 33, 64)), a.square(), -a

        _assert_eager(powers, *_pairs(_edges(dtype), (0,), dtype))

    def test_exponents_that_vary(self, dtype: torch.dtype) -> None:
        def powers(a: Tensor, b: Tensor) -> Any:
            return a**b if dtype == torch.int64 else (a**b, 2**b, (-1) ** b)

        _assert_eager(powers, *_pairs(_edges(dtype), (*_EXPONENTS, -1, -2, -(2**31)), dtype))

    def test_quotients_and_remainders(self, dtype: torch.dtype) -> None:
        a, b = _pairs(_edges(dtype), tuple(edge for edge in _edges(dtype) if edge), dtype)
        kept = (a != torch.iinfo(dtype).min) | (b != -1)  # of which the quotient is none of the dtype

        def parts(a: Tensor, b: Tensor) -> Any:
            by_numbers = [(a % k, torch.fmod(a, k), torch.div(a, k, rounding_mode="trunc"), a // k) for k in (3, -7)]
            return a % b, torch.fmod(a, b), torch.div(a, b, rounding_mode="trunc"), a // b, by_numbers

        _assert_eager(parts, a[kept].clone(), b[kept].clone())


def test_indices_of_32_bits_beside_wide_integers() -> None:
    """TensorRT's indices of a top-k are int32."""

    def mixed(a: Tensor, b: Tensor) -> Any:
        indices = torch.topk(a, 2)[1]
        wide = torch.where(b[:, None] > 0, b[:, None], indices), torch.where(b[:, None] > 0, indices, b[:, None])
        return *wide, indices * b[0], b[1] - indices, indices + torch.tensor(2**40), indices < b[0]

    b = torch.tensor([2**40 + 3, -(2**50), 2**62])
    _assert_eager(mixed, torch.tensor([[1.0, 3.0, 2.0], [0.0, 2.0, 5.0], [5.0, 1.0, 2.0]]), b)


def test_extents_as_divisors() -> None:
    a, batch = torch.tensor([-7, 5, 12, 2**40]), torch.export.Dim("batch", min=2, max=80)
    model = _Model(lambda a, b: (a % b.shape[0], torch.fmod(a, -b.shape[0]), a**b)).eval()
    with interpreted():
        compiled = ahead(model, (a, torch.tensor([1, 2, 3, 4])), ({0: batch}, {0: batch}))
        for count in (3, 4, 7):
            given = torch.arange(-2, count - 2), torch.arange(count)
            assert_same(compiled(*given), model(*given))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_remainders_of_fractions(dtype: torch.dtype) -> None:
    """Of small ones whose product is 0, of infinite divisors, and where a rounded quotient is the next integer."""
    a = torch.tensor([5.5, -7.25, 3e-25, 6e-8 * 3, -2.5, 2.5, 0.0, torch.inf, torch.nan, 7.0, 2047.0], dtype=dtype)
    b = torch.tensor([2.0, 2.0, 2e-25, 6e-8 * 2, torch.inf, -torch.inf, 3.0, 2.0, 1.0, 0.0, 1.0005], dtype=dtype)

    def parts(a: Tensor, b: Tensor) -> Any:
        return torch.fmod(a, b), a % b, torch.fmod(a, 2.5), a % -2.5, torch.div(a, b, rounding_mode="trunc")

    _assert_eager(parts, a, b, 1e-4 if dtype == torch.float32 else 0.0)
