"""The last states of an LSTM, as PyTorch captures and decomposes it.

The decomposition of torch 2.11 squeezes the wrong dimension of a layer's last states: unless the batch is 1, they are
[layers, 1, batch, hidden] instead of [layers, batch, hidden], already in torch.export's program. 2.14 is right.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch._decomp import decompositions

from bridge.base.patches import replace

_NAME = "one_layer_lstm"  # a version that lacks it is left as it is


@contextlib.contextmanager
def corrected_lstm_states() -> Iterator[None]:
    """Within it the last states have the shapes of the first ones."""
    original = getattr(decompositions, _NAME, None)
    if original is None:
        yield
        return

    def layer(inp: Tensor, hidden: Sequence[Tensor], *params: Any, **more: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, states = original(inp, hidden, *params, **more)
        return output, tuple(last.reshape(first.shape) for last, first in zip(states, hidden, strict=True))

    with contextlib.ExitStack() as stack:
        replace(stack, decompositions, _NAME, layer)
        yield
