"""Statements that write in place, at torch.compile's door: each was lost there once."""

import pytest
import torch
import torch.nn.functional as F
from oracle import ahead, assert_same, just_in_time
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import bridge
from bridge.errors import ExportError

pytestmark = pytest.mark.usefixtures("evaluated")
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """`write` changes y = a(x) in place; the result needs x and y."""

    def __init__(self, write):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.register_buffer("inv_freq", torch.ones(8))
        self.register_buffer("calls", torch.zeros(8))
        self.write = write

    def forward(self, x):
        y = self.a(x)
        self.write(self, x, y)
        return bridge.relu(x + y, 0.1)


def overwrite_buffer(module, x, y):
    module.inv_freq.copy_(x.sum(0))
    y += module.inv_freq


WRITES = {
    "mul_": lambda module, x, y: y.mul_(0.5),
    "relu_": lambda module, x, y: torch.relu_(y),
    "F.relu": lambda module, x, y: F.relu(y, inplace=True),
    "masked_fill_": lambda module, x, y: y.masked_fill_(y > 0, 2.0),
    "part": lambda module, x, y: y[:, 2:4].mul_(3.0),
    "assignment": lambda module, x, y: y.__setitem__((slice(None), 1), 4.0),
    "index_add_": lambda module, x, y: y.index_add_(0, torch.tensor([0, 2, 0], device=x.device), x),
    "index_copy_": lambda module, x, y: y.index_copy_(0, torch.tensor([2, 1], device=x.device), x[:2]),
    "scatter_": lambda module, x, y: y.scatter_(1, torch.zeros(3, 1, dtype=torch.long, device=x.device), x[:, :1]),
    "out": lambda module, x, y: torch.mul(x, 0.5, out=y),
    "buffer": overwrite_buffer,
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_are_kept(name):
    model = Model(WRITES[name]).eval()
    assert_same(just_in_time(model)(X), model(X), 1e-5, 1e-5)


class Experts(nn.Module):
    """A mixture of experts written out: each adds its share to a tensor of zeros."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        total = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            total.add_(expert(x) * weights[:, index, None])
        return total


def test_a_mixture_of_experts_is_no_constant():
    model = Experts().eval()
    assert_same(just_in_time(model)(X), model(X), 1e-5, 1e-5)


@torch.library.custom_op("tests_in_place::halve_", mutates_args=("x",))
def halve_(x: torch.Tensor) -> None:
    x.mul_(0.5)


def test_an_operator_that_writes_is_refused_by_its_own_name():
    model = Model(lambda module, x, y: torch.ops.tests_in_place.halve_(y)).eval()
    for compiled, error in ((just_in_time(model), BackendCompilerFailed), (lambda x: ahead(model, (x,)), Exception)):
        with pytest.raises(error, match="tests_in_place::halve_ writes into x, and an engine only reads its inputs"):
            compiled(X)


@pytest.mark.parametrize("door", ["ahead", "just in time"])
def test_writes_that_outlive_the_call_are_refused_by_name(door):
    def compile_and_call(write):
        model = Model(write).eval()
        return ahead(model, (X.clone(),)) if door == "ahead" else just_in_time(model)(X.clone())

    errors = (ExportError, BackendCompilerFailed)
    with pytest.raises(errors, match=r"writes to 'x'(?s:.)*test_in_place.py:\d+"):
        compile_and_call(lambda module, x, y: x.mul_(2.0))
    with pytest.raises(errors, match=r"writes to '\w*calls'"):
        compile_and_call(lambda module, x, y: y.add_(module.calls.add_(1.0)))


class Scaled(nn.Module):
    def forward(self, x, factor, mode="max"):
        return bridge.relu(x * factor, 0.1) if mode == "max" else x


def test_tensors_without_dimensions_are_inputs():
    factor = torch.tensor(2.5)
    assert_same(just_in_time(Scaled().eval())(X, factor), Scaled()(X, factor))
    assert_same(ahead(Scaled().eval(), (X, factor))(X, factor), Scaled()(X, factor))


def test_strings_are_arguments():
    factor = torch.tensor(2.5)
    compiled = ahead(Scaled().eval(), (X, factor, "max"))
    assert_same(compiled(X, factor, "max"), Scaled()(X, factor, "max"))
    with pytest.raises(bridge.errors.EngineInputError, match="mode is 'min'; the engine was compiled with 'max'"):
        compiled(X, factor, "min")


class Caches(nn.Module):
    """Keeps a table that it computes in an attribute, as transformers' long rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inv_freq", torch.ones(8))
        self.table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(8.0, device=x.device)
        self.other = self.table + 1.0
        self.inv_freq.copy_(torch.where(x.sum() > 0, self.table, self.other))
        return bridge.relu(x * self.inv_freq, 0.1)


@pytest.mark.parametrize("x", [X.abs(), -X.abs()], ids=["more", "less"])
def test_a_model_that_keeps_tables_runs_after_it_was_captured(x):
    model = Caches().eval()
    compiled = ahead(model, (X,))
    assert_same(compiled(x), model(x))
    assert_same(just_in_time(model)(x), Caches()(x))


def test_weights_may_have_the_names_of_inputs_and_keywords():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("x", "class"):
                self.register_buffer(name, torch.full((8,), 2.0))

        def forward(self, x):
            return bridge.relu(x * self.x + getattr(self, "class"), 0.1)

    assert_same(just_in_time(Named().eval())(X), Named()(X))
