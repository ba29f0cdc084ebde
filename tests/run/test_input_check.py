"""Inputs that an engine takes, and those that it does not."""

import pytest
import torch
from four_dtypes import INPUTS, inputs

from bridge.errors import EngineInputError
from bridge.tensorrt.run.input_check import InputCheck


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, n: (x,), "the engine takes 2 inputs (x, n), not 1"),
        (lambda x, n: (x, n, n), "the engine takes 2 inputs (x, n), not 3"),
        (lambda x, n: ([1.0], n), "input x is a list; the engine takes a dense tensor"),
        (lambda x, n: (x.to_sparse(), n), "input x is a sparse_coo tensor; the engine takes a dense tensor"),
        (
            lambda x, n: (x.float(), n),
            "input x has dtype float32; the engine takes float16: pass it as x.to(torch.float16), "
            "or compile the model for float32",
        ),
        (lambda x, n: (x, n.int()), "input n has dtype int32; the engine takes int64"),
        (lambda x, n: (x.to("meta"), n), "input x is on meta; the engine runs on cpu: pass it as x.to('cpu')"),
        (
            lambda x, n: (x[0], n),
            "input x has shape (4,), of rank 1; the engine takes rank 2, from (0, 4) to (64, 4)",
        ),
        (
            lambda x, n: (x.repeat(17, 1), n),
            "input x has shape (68, 4): dimension 0 is 68, and the engine takes 0 to 64; "
            "compile the model with a dynamic_shapes that allows 68",
        ),
        (
            lambda x, n: (x[:, :3], n),
            "input x has shape (4, 3): dimension 1 is 3, and the engine takes 4 alone",
        ),
    ],
)
def test_inputs_that_an_engine_does_not_take(change, words):
    with pytest.raises(EngineInputError) as caught:
        InputCheck(INPUTS, torch.device("cpu")).check(change(*inputs(device="cpu")))
    assert words in str(caught.value)


@pytest.mark.parametrize(("batch", "length"), [(0, 0), (1, 5), (64, 3)])
def test_inputs_that_it_takes(batch, length):
    shapes = InputCheck(INPUTS, torch.device("cpu")).check(inputs(batch, length, "cpu"))
    assert shapes == ((batch, 4), (length,))


def test_inputs_like_the_last_ones_are_not_checked_again(monkeypatch):
    checked = []
    monkeypatch.setattr(InputCheck, "_check_all", lambda self, t: checked.append(t) or tuple(x.shape for x in t))
    checks = InputCheck(INPUTS, torch.device("cpu"))
    first = checks.check(inputs(4, 3, "cpu"))
    assert checks.check(inputs(4, 3, "cpu", seed=1)) is first and len(checked) == 1
    assert checks.check(inputs(5, 3, "cpu")) == ((5, 4), (3,)) and len(checked) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda x, n: (x.float(), n),
        lambda x, n: (x, n.to("meta")),
        lambda x, n: (x.to_sparse(), n),
        lambda x, n: (x, n, n),
        lambda x, n: (x.numpy(), n),
        lambda x, n: (x.repeat(17, 1), n),
    ],
)
def test_inputs_unlike_the_last_ones_are_refused_each_time(change):
    checks = InputCheck(INPUTS, torch.device("cpu"))
    right = inputs(4, 3, "cpu")
    for _ in range(2):
        shapes = checks.check(right)
        with pytest.raises(EngineInputError):
            checks.check(change(*right))
        assert checks.check(right) == shapes
