"""What fails while operators are taken apart tells which operator, and the model's line."""

from typing import Any

import pytest
import torch
from oracle import ahead, interpreted
from torch import Tensor

from bridge.errors import BuildError
from bridge.tensorrt import decomposing


class _Sine(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin() + 1


@pytest.mark.parametrize("kind, text", ((TypeError, "no such dtype"), (AssertionError, "")))
def test_failing_decomposition_is_named(monkeypatch: pytest.MonkeyPatch, kind: type[Exception], text: str) -> None:
    def fails(x: Tensor) -> Any:
        raise kind(text)

    monkeypatch.setattr(decomposing, "decompositions", lambda: {torch.ops.aten.sin.default: fails})
    with interpreted(), pytest.raises(BuildError) as caught:
        ahead(_Sine().eval(), (torch.randn(2),))
    told = str(caught.value)
    assert told.startswith(f"aten.sin.default cannot be taken apart: {text or kind.__name__}\n")
    assert " in forward: return x.sin() + 1" in told and "@bridge.op" in told and "While executing" not in told
