"""Dynamic shapes behind torch.compile: what varies in one engine, and within which bounds."""

import itertools

import pytest
import torch
from backend_models import LogGamma, compiled, positions
from compile_models import Attention, Convolutional
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import bridge
from bridge.doors.backend import bridge_backend
from bridge.errors import EngineError, EngineInputError


def test_ten_shapes_with_dynamic_true_take_at_most_one_recompile(on_cpu):
    model = Attention()
    fast = compiled(model, dynamic=True)
    for batch, length in [(2, 7), (3, 9), (1, 5), (8, 64), (1, 64), (4, 33), (2, 2), (1, 17), (7, 50), (5, 3)]:
        x, ids = torch.randn(batch, length, 32), positions(batch, length)
        torch.testing.assert_close(fast(x, ids), model(x, ids))
    report = bridge.report(fast)
    assert len(report.engines) == 2 and len(report.recompiles) == 1 and "x.size()[0]" in str(report.recompiles)


def test_a_second_shape_makes_the_dimension_dynamic(on_cpu):
    model = Convolutional()
    fast = compiled(model)
    for batch in (2, 3, 5, 12):
        x = torch.randn(batch, 3, 16, 12)
        torch.testing.assert_close(fast(x), model(x))
    first, second = bridge.report(fast).engines
    assert not first.inputs[0].dynamic
    assert second.inputs[0].min[0] == 2 and second.inputs[0].opt[0] == 3 and second.inputs[0].max[0] >= 12
    assert "expected 2, actual 3" in bridge.report(fast).recompiles[0]


def test_mark_dynamic_gives_the_range():
    x, ids = torch.randn(4, 7, 32), positions(4, 7)
    for tensor in (x, ids):
        torch._dynamo.mark_dynamic(tensor, 0, min=2, max=10)
        torch._dynamo.mark_dynamic(tensor, 1)
    fast = compiled(Attention())
    with pytest.raises((EngineError, EngineInputError)):
        fast(x, ids)
    (engine,) = bridge.report(fast).engines
    spec = engine.inputs[0]
    assert (spec.min, spec.opt, spec.max) == ((2, 2, 32), (4, 7, 32), (10, 512, 32))


def test_tensors_marked_alike_share_an_engine(on_cpu):
    model = Attention()
    fast = compiled(model)
    for batch, length in ((4, 7), (2, 30), (8, 3)):
        x, ids = torch.randn(batch, length, 32), positions(batch, length)
        for tensor in (x, ids):
            torch._dynamo.mark_dynamic(tensor, 0, min=2, max=8)
            torch._dynamo.mark_dynamic(tensor, 1, min=2, max=64)
        torch.testing.assert_close(fast(x, ids), model(x, ids))
        assert x._dynamo_dynamic_indices == {0, 1}, "the caller's tensors stay marked"
    report = bridge.report(fast)
    assert [spec.max for spec in report.engines[0].inputs] == [(8, 64, 32), (8, 64)]
    assert len(report.engines) == 1 and not report.recompiles


def test_growth_bounds_what_no_one_bounded(on_cpu):
    fast = compiled(Attention(), dynamic=True, growth=4)
    fast(torch.randn(2, 8, 32), positions(2, 8))
    assert bridge.report(fast).engines[0].inputs[0].max == (4, 16, 32)
    fast(torch.randn(4, 16, 32), positions(4, 16))
    assert len(bridge.report(fast).engines) == 1
    fast(torch.randn(2, 17, 32), positions(2, 17))  # beyond the range: a guard, not an error
    assert [spec.max for spec in bridge.report(fast).engines[1].inputs] == [(4, 64, 32), (4, 64)]


def test_growth_bounds_the_elements_where_axes_share_an_extent(on_cpu):
    """torch.compile takes extents that are alike in the example for one."""
    fast = compiled(nn.ReLU(), dynamic=True)
    fast(torch.randn(2, 8, 8))
    assert bridge.report(fast).engines[0].inputs[0].max == (8, 32, 32)


class Quarters(nn.Module):
    def forward(self, x):
        return bridge.relu(x.view(x.shape[0], x.shape[1] // 4, 4).sum(2), 0.1), x.reshape(-1, 8)


def test_conditions_of_the_model_become_guards(on_cpu):
    model = Quarters()
    fast = compiled(model, dynamic=True)
    for batch, length in ((2, 8), (3, 16), (5, 24), (2, 12)):
        x = torch.randn(batch, length)
        torch.testing.assert_close(fast(x), model(x))
    with pytest.raises(Exception, match=r"shape|view|reshape"):
        fast(torch.randn(3, 9))


class Ends(nn.Module):
    """Its ends are treated apart, of which torch.export proves nothing for the lengths that torch.compile allows."""

    def forward(self, x):
        mask = x.new_zeros(x.shape[1])
        mask[:-7], mask[-3:] = 1.0, 2.0
        return bridge.relu(x) + mask


def test_what_torch_export_cannot_prove_varies_in_one_engine(on_cpu, caplog):
    model = Ends()
    fast = compiled(model, dynamic=True)
    for shape in ((2, 20), (3, 20), (5, 30), (4, 8)):
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), model(x))
    (engine,) = bridge.report(fast).engines
    assert engine.inputs[0].min[1] <= 8 and engine.inputs[0].max[1] >= 30
    assert "alone" not in caplog.text


@pytest.mark.parametrize("dynamic", [True, None])
def test_what_torch_export_refuses_to_vary_is_fixed_and_told(on_cpu, caplog, dynamic):
    model = LogGamma()
    fast = compiled(model, dynamic=dynamic)
    for shape in ((2, 20), (3, 20), (5, 30), (4, 20)):
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), model(x))
    inputs = [engine.inputs[0] for engine in bridge.report(fast).engines]
    assert [(spec.min[1], spec.max[1]) for spec in inputs] == [(20, 20)] * (1 if dynamic else 2) + [(30, 30)]
    assert inputs[-2].dynamic, "the batch"
    assert "engine is for x.shape[1] = 30 alone" in caplog.text and "mark_static" in caplog.text


def test_what_is_marked_and_refused_is_an_error(caplog):
    x = torch.randn(2, 20)
    torch._dynamo.mark_dynamic(x, 1)
    with pytest.raises(Exception, match=r"You marked L\['x'\].size\(\)\[1\] as dynamic"):
        compiled(LogGamma())(x)
    assert "engine is for x.shape[1] = 20 alone" in caplog.text


@torch._dynamo.config.patch(recompile_limit=3)
def test_the_recompile_limit_is_an_error_not_a_silent_return_to_pytorch(on_cpu):
    fast = compiled(Convolutional(), dynamic=False)
    for batch in (2, 3):
        fast(torch.randn(batch, 3, 16, 12))
    with pytest.raises(BackendCompilerFailed, match=r"3 times.*recompile_limit is 3.*mark_dynamic"):
        fast(torch.randn(4, 3, 16, 12))


# On a GPU


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dynamic", [True, None])
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_a_sweep_on_the_gpu_equals_eager(device, dynamic, mode):
    model = Attention().eval().half().to(device)
    fast = torch.compile(model, backend=bridge_backend, dynamic=dynamic, mode=mode)
    for batch, length in itertools.product((2, 8, 3), (7, 64, 33)):
        x = torch.randn(batch, length, 32, device=device, dtype=torch.half)
        ids = positions(batch, length).to(device)
        torch.testing.assert_close(fast(x, ids), model(x, ids), atol=2e-2, rtol=2e-2)
    report = bridge.report(fast)
    assert not report.graph_breaks
    assert len(report.engines) == (1 if dynamic else 3)  # automatic dynamic: the length varies first, then the batch
