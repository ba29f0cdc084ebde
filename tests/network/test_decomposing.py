"""Operators are decomposed on the device of their tensors; errors name the operator and the line of the model."""

from typing import Any

import pytest
import torch
from oracle import ahead, interpreted
from test_moe import Logits
from test_ordering import Orders
from test_partial_writes import Written
from test_pooling import Pools
from test_scattering import Scatters
from torch import Tensor

from bridge.errors import BuildError
from bridge.graph.capture import export
from bridge.tensorrt.network import decomposing


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
    assert told.startswith(f"aten.sin.default cannot be decomposed: {text or kind.__name__}\n")
    assert " in forward: return x.sin() + 1" in told and "While executing" not in told
    assert "`bridge new op acme::corr`" in told


class _Folds(torch.nn.Module):
    """A product of constants, which is computed while the graph is lowered."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.mm(self.table, self.table)


def test_a_constant_that_cannot_be_computed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an integer product on a GPU cannot."""
    from torch_tensorrt.dynamo.lowering.passes import constant_folding

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("not implemented for 'Long'\n\nWhile executing %mm : [num_users=1] = call_function")

    monkeypatch.setattr(constant_folding._TorchTensorRTConstantFolder, "run", fails)
    with interpreted(), pytest.raises(BuildError) as caught:
        ahead(_Folds().eval(), (torch.randn(3, 3),))
    assert str(caught.value).startswith("aten.mm.default cannot be lowered: not implemented for 'Long'\n")
    assert "in forward: return x + torch.mm(self.table, self.table)" in str(caught.value)


class _Made(torch.nn.Module):
    """x [n, 6], with tensors that are made without one to go by, and a step in a write."""

    def forward(self, x: Tensor) -> Tensor:
        made = [torch.empty_like(x), x.new_empty(x.shape), torch.empty_strided(x.shape, (6, 1), device=x.device)]
        for each in made:
            each.fill_(0.5)
            each[:, ::2] = x[:, :3]
        windows = x.unfold(1, 3, 2).sum(-1, keepdim=True)  # [n, 2, 1]
        return made[0] + made[1] + made[2] + windows.sum(1) + x.roll(1, 1).cumsum(1)


def _on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (_Made, (_on_meta(5, 6),)),
        (Written, (_on_meta(5, 9),)),
        (Orders, (_on_meta(5, 7), _on_meta(5, 7, dtype=torch.int64))),
        (Pools, (_on_meta(2, 3, 14, 18),)),
        (Scatters, (_on_meta(5, 6), _on_meta(7, dtype=torch.int64), _on_meta(7, 6))),
        (lambda: Logits("Mixtral"), (_on_meta(1, 7, dtype=torch.int64),)),
    ],
    ids=["made", "written", "orders", "pools", "scatters", "mixtral"],
)
def test_operators_are_taken_apart_on_the_device_of_their_tensors(model: Any, args: tuple[Tensor, ...]) -> None:
    """The device "meta" stands for any that is not the CPU: what is made on the CPU there does not go with the rest."""
    taken_apart = decomposing.decompose(export(model().to("meta").eval(), args, None, None))
    values = {node: node.meta.get("val") for node in taken_apart.graph.nodes}
    assert [node for node, value in values.items() if isinstance(value, Tensor) and value.device.type != "meta"] == []


class _CutTwice(torch.nn.Module):
    """x [n, 4]; where n may be 1 the first two rows are an extent that torch makes up."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[1:3] = 2
        return y[:2]


def test_an_extent_that_torch_loses_asks_for_a_larger_bound() -> None:
    """torch 2.11 loses it; 2.14 does not."""
    with interpreted():
        try:
            compiled, low = _cut_twice(1), 1
        except BuildError as error:
            assert "the dynamic dimensions a larger lower bound\n" in str(error) and "unbacked" not in str(error)
            compiled, low = _cut_twice(2), 2
        for rows in (low, 3, 7):
            given = torch.randn(rows, 4)
            assert torch.equal(compiled(given), _CutTwice()(given))


def _cut_twice(low: int) -> Any:
    return ahead(_CutTwice().eval(), (torch.randn(5, 4),), ({0: torch.export.Dim("rows", min=low, max=8)},))
