"""Matrix products that tensor cores have no use for, as sums of products."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}  # what sums are kept in
_TENSOR_CORES = (torch.float32, *_WIDER)

aten = torch.ops.aten


def small_products(others: Mapping[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """Decompositions of products of integers or doubles, or with an extent of 1; `others` has those for the rest."""

    def product(a: torch.Tensor, b: torch.Tensor) -> Any:
        return _sum_of_products(a, b) if _is_small(a, b) else NotImplemented

    def product_and_sum(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
        return beta * bias + alpha * _sum_of_products(a, b) if _is_small(a, b) else NotImplemented

    mine: dict[Any, Callable[..., Any]] = {
        aten.mm.default: product,
        aten.bmm.default: product,
        aten.addmm.default: product_and_sum,
        aten.baddbmm.default: product_and_sum,
    }
    return {operator: _first(function, others.get(operator)) for operator, function in mine.items()}


def _first(function: Callable[..., Any], other: Callable[..., Any] | None) -> Callable[..., Any]:
    def decomposed(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        if result is NotImplemented and other is not None:
            return other(*arguments, **named)
        return result

    return decomposed


def _is_small(a: torch.Tensor, b: torch.Tensor) -> bool:
    extents = (a.shape[-2], a.shape[-1], b.shape[-1])
    return a.dtype not in _TENSOR_CORES or any(isinstance(extent, int) and extent == 1 for extent in extents)


def _sum_of_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    wide = _WIDER.get(a.dtype, a.dtype)
    return (a.to(wide).unsqueeze(-1) * b.to(wide).unsqueeze(-3)).sum(-2, dtype=wide).to(a.dtype)
