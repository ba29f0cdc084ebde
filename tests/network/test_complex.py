"""Complex values within a model: torch_tensorrt writes them as pairs of real ones. They are right, or refused."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import Tensor

from bridge.errors import BridgeError, UnsupportedOpError

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


class _Turned(torch.nn.Module):
    """A function of complex numbers [4, 3], whose parts are x [4, 6], and of a table of them."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function
        self.register_buffer("table", torch.polar(torch.ones(4, 3), torch.rand(4, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self._function(torch.view_as_complex(x.reshape(4, 3, 2).contiguous()), self.table)


@pytest.mark.parametrize(
    "function",
    [
        lambda z, table: torch.view_as_real(z * table),
        lambda z, table: torch.view_as_real(z * table.conj()).flatten(-2),
        lambda z, table: (z * table).real.sum(),
    ],
)
def test_products_are_eager(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, x = _Turned(function).eval(), torch.randn(4, 6)
    with interpreted():
        assert_same(ahead(model, (x,))(x), model(x))


def test_a_product_along_a_dimension_is_refused() -> None:
    model = _Turned(lambda z, table: torch.view_as_real(z.prod(-1))).eval()
    with interpreted(), pytest.raises(UnsupportedOpError, match=r"aten\.prod\.dim_int of complex values"):
        ahead(model, (torch.randn(4, 6),))


@pytest.mark.parametrize("function", [lambda z, table: z, lambda z, table: z * table])
def test_complex_results_are_refused(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    with interpreted(), pytest.raises(BridgeError, match=r"complex64|view_as_complex"):
        ahead(_Turned(function).eval(), (torch.randn(4, 6),))
