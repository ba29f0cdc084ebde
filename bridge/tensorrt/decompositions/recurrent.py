"""Fused cells of recurrent layers, which PyTorch uses on GPUs alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def lstm_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    cx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The next hidden and cell state [B, H] from products [B, 4 H]; only the gradient needs the third result."""
    gates = _with_bias(input_gates, input_bias) + _with_bias(hidden_gates, hidden_bias)
    in_gate, forget_gate, candidate, out_gate = gates.chunk(4, 1)
    cell = forget_gate.sigmoid() * cx + in_gate.sigmoid() * candidate.tanh()
    return out_gate.sigmoid() * cell.tanh(), cell, torch.empty_like(gates)


def gru_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    hx: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The next hidden state [B, H] from products [B, 3 H]; only the gradient needs the second result."""
    reset_x, update_x, candidate_x = _with_bias(input_gates, input_bias).chunk(3, 1)
    reset_h, update_h, candidate_h = _with_bias(hidden_gates, hidden_bias).chunk(3, 1)
    update = (update_x + update_h).sigmoid()
    candidate = (candidate_x + (reset_x + reset_h).sigmoid() * candidate_h).tanh()
    return candidate + update * (hx - candidate), torch.empty_like(input_gates)


def _with_bias(gates: Tensor, bias: Tensor | None) -> Tensor:
    return gates if bias is None else gates + bias


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._thnn_fused_lstm_cell.default: lstm_cell,
    aten._thnn_fused_gru_cell.default: gru_cell,
}
