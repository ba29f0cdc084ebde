"""Strict mode of torch.compile(backend="bridge"): what would run in PyTorch in silence is an error."""

import contextlib
import threading
import warnings

import pytest
import torch
from oracle import just_in_time
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import bridge
from bridge.doors import strict
from bridge.errors import GraphBreakError

pytestmark = pytest.mark.usefixtures("evaluated")
X = torch.randn(3, 8)


class Block(nn.Module):
    def forward(self, x):
        return bridge.relu(x, 0.1) + 1.0


class Disabled(nn.Module):
    @torch.compiler.disable
    def forward(self, x):
        return bridge.relu(x, 0.1)


class Locked(nn.Module):
    """torch.compile skips a function that breaks within a lock, and compiles what it calls."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.block = Block()

    def forward(self, x):
        with self.lock:
            y = self.block(x)
        return y * 2.0


class LockedAlone(Locked):
    def forward(self, x):
        with self.lock:
            return x.relu()


class Multiplies(nn.Module):
    def forward(self, x):
        return torch.sparse.mm(x, torch.ones(8, 2))


def test_a_model_that_is_not_traced_is_an_error_in_every_call():
    compiled = just_in_time(Disabled().eval())
    for _ in range(2):
        with pytest.raises(GraphBreakError, match=r"this call ran in PyTorch.*no engine.*fallback"):
            compiled(X)


@pytest.mark.parametrize(("model", "x"), [(LockedAlone(), X), (Multiplies(), X.to_sparse())], ids=["lock", "sparse"])
def test_zero_engines_are_an_error(model, x):
    with pytest.raises(GraphBreakError, match="this call ran in PyTorch"):
        just_in_time(model.eval())(x)


def test_a_function_that_is_skipped_around_compiled_ones_is_an_error():
    with pytest.raises(BackendCompilerFailed, match=r"does not trace forward .*test_strict.py:.*compiles only forward"):
        just_in_time(Locked().eval())(X)


def test_a_layer_of_torch_that_compiles_itself_is_an_error_or_an_engine():
    """torch 2.11 does not trace it; 2.14 does."""
    layer = nn.Linear(8, 8).eval()
    layer.compile(backend="bridge", options={"target": "sm86", "cache": False})
    before = strict._engine_runs()
    try:
        layer(X)
    except GraphBreakError as error:
        assert "this call ran in PyTorch" in str(error)
    else:
        assert strict._engine_runs() == before + 1


class Warns(nn.Module):
    def forward(self, x):
        y = bridge.relu(x, 0.1)
        warnings.warn("old", DeprecationWarning, stacklevel=2)
        return y + 1.0


def test_a_warning_ends_a_graph_unless_torch_is_told_to_leave_it_out():
    with pytest.raises(BackendCompilerFailed, match=r"config.ignore_logging_functions.add\(warnings.warn\)"):
        just_in_time(Warns().eval())(X)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(ignore_logging_functions={warnings.warn}):
        assert torch.equal(just_in_time(Warns().eval())(X), bridge.relu(X, 0.1) + 1.0)


@pytest.mark.parametrize("model", [Disabled, LockedAlone])
def test_fallback_allows_it(model):
    model = model().eval()
    assert torch.equal(just_in_time(model, fallback=True)(X), model(X))


def test_asking_for_eager_calls_is_no_error():
    compiled = just_in_time(Block().eval())
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(compiled(X), Block()(X))
    assert torch.equal(compiled(X), Block()(X))


def test_the_models_own_error_goes_on():
    class Raises(nn.Module):
        @torch.compiler.disable
        def forward(self, x):
            raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        just_in_time(Raises().eval())(X)


def test_calls_from_within_the_handling_of_another_error_are_watched_too():
    try:
        raise ValueError("first")
    except ValueError:
        with pytest.raises(GraphBreakError, match="this call ran in PyTorch"):
            just_in_time(Disabled().eval())(X)


def test_other_backends_are_left_alone():
    assert torch.equal(torch.compile(Disabled().eval(), backend="eager")(X), Disabled()(X))


def test_another_backends_own_context_around_calls_is_entered():
    entered = []

    def backend(gm, args):
        return gm.forward

    backend.backend_ctx_ctor = lambda: contextlib.nullcontext(entered.append(True))
    compiled = torch._dynamo.optimize(backend)(lambda x: x + 1)
    assert torch.equal(compiled(X), X + 1) and entered
