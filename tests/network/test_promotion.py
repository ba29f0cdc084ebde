"""Operands that PyTorch casts before it computes, indices from the end, sums of integers: networks against eager."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import Tensor

_BATCH = torch.export.Dim("batch", min=2, max=8)
_INPUTS = {
    "i": torch.tensor([[-1, 0, 1], [2, 3, -4]]),
    "n": torch.tensor([[16777217, 0, 1], [2, 3, -4]], dtype=torch.int32),
    "b": torch.tensor([[True, False, True], [False, False, True]]),
    "f": torch.tensor([[0.5, -1.5, torch.inf], [torch.nan, 2.0, 0.0]]),
    "h": torch.tensor([[1.5, -1.5, 0.2], [-0.2, 7.75, -7.75]], dtype=torch.bfloat16),
    "at": torch.tensor([-1, 0, 1, -2]),
}
_CASES: dict[str, Callable[..., Any]] = {
    "integers beside fractions": lambda i, n, b, f, h, at: (i > -0.5, i < 1.5, i == 1.5, n >= 0.5, i != 0.5, i <= -0.5),
    "sums of integers and fractions": lambda i, n, b, f, h, at: (i + 0.5, i * 0.5, n - 0.25, i.clamp(max=2.5), 0.5 - i),
    "functions of integers": lambda i, n, b, f, h, at: (i.sin(), i.exp(), b.sigmoid(), i / 3, n / i.abs().clamp(min=1)),
    "whole integers": lambda i, n, b, f, h, at: (i.floor(), n.ceil(), i.round(), n.trunc()),
    "mixed tensors": lambda i, n, b, f, h, at: (i + b, n * i, n > i, f > i, h * f, torch.where(b, i, 0.5)),
    "truth values": lambda i, n, b, f, h, at: (b * b, b + b, b == b.flip(0), b != b.flip(0), b > b.flip(0), b * True),
    "finite": lambda i, n, b, f, h, at: (f.isfinite(), torch.isclose(f, f)),
    "truncation": lambda i, n, b, f, h, at: (h.trunc(), h.float().trunc()),
    "extremes of 32 bits": lambda i, n, b, f, h, at: (n.amax(1), n.amin(0), n.max(), n.min(), n.amax()),
    "cumulative sums": lambda i, n, b, f, h, at: (n.cumsum(0), n.cumsum(1), b.cumsum(0), i.float().cumsum(0)),
    "cumulative sums of one dtype": lambda i, n, b, f, h, at: (h.cumsum(1), n.cumsum(1, dtype=torch.int32)),
    "one index": lambda i, n, b, f, h, at: (i[at], i[:, at], f[torch.tensor([-1, 0])]),
    "several indices": lambda i, n, b, f, h, at: (i[at, at], i[torch.tensor([0, 1]), torch.tensor([-1, -2])]),
    "resizing by factors": lambda i, n, b, f, h, at: tuple(
        torch.nn.functional.interpolate(f.nan_to_num(posinf=3.0)[None, None].expand(1, 1, -1, 3), **settings)
        for settings in ({"scale_factor": 1.7}, {"scale_factor": (2, 1.4), "mode": "bilinear"}, {"scale_factor": 2.0})
    ),
    "resizing of one axis": lambda i, n, b, f, h, at: torch.nn.functional.interpolate(
        f.nan_to_num(posinf=3.0)[None], scale_factor=1.7, mode="linear"
    ),
    "softplus": lambda i, n, b, f, h, at: (torch.nn.functional.softplus(f, 2.0, 1.0), torch.nn.functional.softplus(f)),
}


class _Case(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self._function(*tensors)


@pytest.mark.parametrize("dynamic", (False, True), ids=("static", "dynamic"))
@pytest.mark.parametrize("name", _CASES)
def test_result_is_eager(name: str, dynamic: bool) -> None:
    model, inputs = _Case(_CASES[name]).eval(), tuple(_INPUTS.values())
    shapes = {"tensors": tuple({0: _BATCH} if tensor.dim() == 2 else {} for tensor in inputs)} if dynamic else None
    with interpreted():
        compiled = ahead(model, inputs, shapes)
        if dynamic:
            inputs = tuple(torch.cat((t, t.flip(0), t)) if t.dim() == 2 else t for t in inputs)
        assert_same(compiled(*inputs), model(*inputs))
