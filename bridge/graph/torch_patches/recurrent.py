"""The last states of an LSTM, as PyTorch captures and decomposes it.

The decomposition of torch 2.11 squeezes the wrong dimension of a layer's last states: unless the batch is 1, they are
[layers, 1, batch, hidden] instead of [layers, batch, hidden], already in torch.export's program. 2.14 is right.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch._decomp import decompositions

from bridge.base.patches import replaced

_Layer = Callable[..., tuple[Tensor, Sequence[Tensor]]]


def corrected_lstm_states() -> AbstractContextManager[None]:
    """Within it the last states have the shapes of the first ones."""
    return replaced(decompositions, "one_layer_lstm", _corrected)


def _corrected(original: _Layer) -> _Layer:
    def layer(inp: Tensor, hidden: Sequence[Tensor], *params: Any, **more: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, states = original(inp, hidden, *params, **more)
        return output, tuple(last.reshape(first.shape) for last, first in zip(states, hidden, strict=True))

    return layer
