"""What no engine can hold: an error that names its line, or PyTorch's part where fallback is asked for."""

import pytest
import torch
from backend_models import Broken, Unsupported, compiled
from compile_models import Convolutional
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import bridge
from bridge.doors.backend import bridge_backend


def test_a_graph_break_names_its_line_and_the_way_out():
    with pytest.raises(BackendCompilerFailed, match=r"several graphs: .*print") as raised:
        compiled(Broken())(torch.randn(2, 8))
    assert 'print("here")' in str(raised.value) and '"fallback": True' in str(raised.value)


def test_an_unsupported_operator_names_itself_and_its_line():
    with pytest.raises(BackendCompilerFailed, match=r"_linalg_svd.*no converter") as raised:
        compiled(Unsupported())(torch.randn(4, 8))
    assert "in forward: values = torch.linalg.svdvals" in str(raised.value)
    assert isinstance(raised.value.inner_exception, bridge.errors.UnsupportedOpError)


@pytest.fixture
def broken_converter(monkeypatch):
    from bridge.tensorrt.plugins import plugin_layers

    def fail(self, name, op, tensors, attributes):
        raise RuntimeError("deliberately broken")

    monkeypatch.setattr(plugin_layers.SeededPlugins, "layer", fail)
    monkeypatch.setattr(plugin_layers.DirectPlugins, "layer", fail)


def test_a_broken_converter_is_an_error(broken_converter):
    model = compiled(Convolutional())
    with pytest.raises(BackendCompilerFailed, match=r"bridge.relu.*deliberately broken") as raised:
        model(torch.randn(2, 3, 16, 12))
    assert isinstance(raised.value.inner_exception, bridge.errors.BuildError)
    assert "in forward: x = bridge.relu(" in str(raised.value) and not bridge.report(model).graphs


def test_a_broken_converter_is_reported_where_fallback_is_asked_for(broken_converter, on_cpu):
    model = Convolutional()
    fast = compiled(model, fallback=True)
    x = torch.randn(2, 3, 16, 12)
    torch.testing.assert_close(fast(x), model(x))
    report = bridge.report(fast)
    assert not report.engines and "deliberately broken" in str(report)
    assert "bridge.relu.default" in {node.operator for node in report.torch_nodes}


# Fallback


@pytest.mark.parametrize("dynamic", [False, True])
def test_fallback_runs_the_rest_in_pytorch_and_says_what(on_cpu, dynamic):
    model = Unsupported()
    fast = compiled(model, dynamic=dynamic, fallback=True)
    for batch in (4, 6):
        x = torch.randn(batch, 8)
        for expected, actual in zip(model(x), fast(x), strict=True):
            torch.testing.assert_close(actual, expected)
    report = bridge.report(fast)
    assert report.plugin_counts() == {"relu": 2 * len(report.graphs)}
    assert {node.operator for node in report.torch_nodes} == {"aten._to_copy.default", "aten._linalg_svd.default"}
    for node in report.torch_nodes:
        assert "float64" in node.reason and "svdvals" in node.line
    names = {spec.name for engine in report.engines for spec in engine.inputs}
    assert not any("weight" in name for name in names), "weights are constants of the engines"
    assert "aten._linalg_svd.default" in str(report)


def test_fallback_keeps_engines_on_both_sides_of_a_graph_break(on_cpu, capsys):
    model = Broken()
    fast = compiled(model, fallback=True)
    x = torch.randn(4, 8)
    torch.testing.assert_close(fast(x), model(x))
    report = bridge.report(fast)
    assert len(report.engines) == 2 and len(report.graph_breaks) == 1 and 'print("here")' in report.graph_breaks[0]
    assert capsys.readouterr().out == "here\nhere\n"


class Small(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x + 1.0)


def test_a_part_too_small_for_an_engine_runs_in_pytorch(on_cpu):
    fast = compiled(Small(), fallback=True)
    x = torch.randn(3, 3)
    torch.testing.assert_close(fast(x), Small()(x))
    reasons = {node.operator: node.reason for node in bridge.report(fast).torch_nodes}
    assert "too small for an engine" in reasons["aten.add.Tensor"]


# On a GPU


@pytest.mark.gpu(engines=True)
def test_fallback_on_the_gpu_equals_eager(device):
    model = Unsupported().eval().to(device)
    fast = torch.compile(model, backend=bridge_backend, dynamic=True, options={"fallback": True})
    for batch in (4, 6, 8):  # above 8, the features, svdvals has a condition of its own
        x = torch.randn(batch, 8, device=device)
        for expected, actual in zip(model(x), fast(x), strict=True):
            torch.testing.assert_close(actual, expected, atol=2e-2, rtol=2e-2)
    assert len(bridge.report(fast).engines) == 2
