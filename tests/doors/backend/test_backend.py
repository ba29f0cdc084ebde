"""torch.compile(backend="bridge"): the engine, what a graph takes and returns, and the options."""

import copy
import subprocess
import sys

import fresh_process
import pytest
import torch
from backend_models import OPTIONS, Numbers, built, compiled, needs_no_gpu
from compile_models import Attention, Convolutional, Deformable, Regions
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import bridge
from bridge.doors import backend
from bridge.doors.backend import bridge_backend


@needs_no_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("model", [Convolutional, Attention, Deformable, Regions], ids=lambda model: model.__name__)
def test_the_engine_is_that_of_bridge_compile(model, dynamic, dtype):
    model = model().eval().to(dtype)
    args, shapes = model.example(dtype)
    report = built(compiled(model, dynamic=dynamic), *args)
    direct = bridge.compile(model, args, dynamic_shapes=shapes if dynamic else None, **OPTIONS)
    (engine,) = report.engines
    assert bridge.Report.plugin_counts(report) == direct.plugin_counts()
    assert sorted(layer["type"] for layer in engine.layers) == sorted(layer["type"] for layer in direct.layers)
    assert [spec.name for spec in engine.inputs] == [spec.name for spec in direct.inputs]
    assert [layer["attributes"] for layer in engine.layers if layer["op"]] == [
        layer["attributes"] for layer in direct.layers if layer["op"]
    ]
    assert (len(report.graphs), report.graph_breaks, report.recompiles, report.torch_nodes) == (1, [], [], [])


def test_the_backend_needs_no_import_of_bridge():
    installed = "import importlib.metadata as m; m.distribution('bridge-tensorrt')"
    if subprocess.run([sys.executable, "-c", installed], capture_output=True).returncode:
        pytest.skip("bridge is not installed here, so it has no entry point")
    code = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
compiled = torch.compile(model, backend="bridge", options={"target": "sm00", "cache": False})
try:
    compiled(torch.randn(2, 4))
except Exception as error:
    print(type(error).__name__, error)
"""
    found = fresh_process.run(code, imported=fresh_process.COMPILER)
    assert "backend='bridge' raised" in found.stdout and "TargetError" in found.stdout, found


# What else a graph takes and returns


def test_outputs_are_called_like_the_variables_of_the_model(evaluated):
    class Head(nn.Module):
        def forward(self, hidden_states):
            logits = bridge.relu(hidden_states, 0.1, 6.0)
            pred_boxes = logits * 2
            return {"scores": logits, "boxes": [pred_boxes, hidden_states], "again": logits}

    model, x = Head().eval(), torch.randn(2, 3)
    call = torch.compile(model, backend="bridge", options=OPTIONS)
    torch.testing.assert_close(call(x), model(x))
    (engine,) = bridge.report(call).engines
    assert [spec.name for spec in engine.inputs] == ["hidden_states"]
    assert [spec.name for spec in engine.outputs] == ["logits", "pred_boxes"]


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_numbers_come_out_as_the_model_gives_them(on_cpu, dynamic):
    model = Numbers()
    fast = compiled(model, dynamic=dynamic)
    for batch, scale in ((2, 3), (4, 3), (7, 5)):
        x = torch.randn(batch, 8)
        torch.testing.assert_close(fast(x, scale), model(x, scale))


def test_weights_written_to_make_another_engine(on_cpu, caplog):
    model = Numbers()
    fast = compiled(model, dynamic=True)
    x = torch.randn(4, 8)
    before = fast(x, 2)["y"].clone()
    model.linear.weight.mul_(-1.0)
    after = fast(x, 2)["y"]
    torch.testing.assert_close(after, model(x, 2)["y"])
    assert not torch.allclose(before, after) and "compiling another" in caplog.text
    model.load_state_dict(copy.deepcopy(Numbers().state_dict()), assign=True)
    torch.testing.assert_close(fast(x, 2)["y"], model(x, 2)["y"])
    assert sum(graph.rebuilt for graph in bridge.report(fast).graphs) + len(bridge.report(fast).recompiles) >= 2


def test_modules_of_one_class_share_a_graph_but_no_weights(on_cpu):
    layers = [Layer(), Layer()]
    for layer in layers:
        layer.eval().compile(backend=bridge_backend, options=OPTIONS)
    x = torch.randn(3, 8)
    for layer in [*layers, *layers]:
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.linear.weight, layer.linear.bias))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x)


# Strict


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"falback": True}, "no setting 'falback'; did you mean 'fallback'"),
        ({"growth": 0}, "growth is 0; expected 1 or more"),
        ({"target": "sm1"}, "target 'sm1'"),
        ({"cuda_graph": "yes"}, "cuda_graph is 'yes'"),
    ],
)
def test_options_are_checked(options, error):
    with pytest.raises(BackendCompilerFailed, match=error):
        compiled(Numbers(), **options)(torch.randn(2, 8), 1)


def test_modes_are_checked():
    with pytest.raises(BackendCompilerFailed, match="mode is 'max-autotune'"):
        torch.compile(Numbers().eval(), backend=bridge_backend, mode="max-autotune")(torch.randn(2, 8), 1)
    assert backend._config(None, "reduce-overhead").cuda_graph and not backend._config({"tf32": False}, None).cuda_graph


class Training(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x * 2)


def test_a_model_in_training_mode_is_refused():
    for layer, message in ((nn.Dropout(0.5), "applies dropout; call model.eval"), (nn.BatchNorm1d(8), "running_mean")):
        model = torch.compile(Training(layer).train(), backend=bridge_backend, options=OPTIONS)
        with pytest.raises(BackendCompilerFailed, match=message):
            model(torch.randn(4, 8))


def test_an_input_that_requires_a_gradient_is_refused():
    with torch.enable_grad(), pytest.raises(BackendCompilerFailed, match=r"x.* requires a gradient.*no_grad"):
        compiled(Numbers())(torch.randn(2, 8, requires_grad=True), 1)


def test_bridge_compile_has_no_fallback():
    with pytest.raises(ValueError, match=r"one engine.*torch.compile"):
        bridge.compile(Numbers().eval(), (torch.randn(2, 8), 1), fallback=True, **OPTIONS)


# On a GPU


@pytest.mark.gpu(engines=True)
def test_new_weights_on_the_gpu(device):
    model = Numbers().eval().to(device)
    fast = torch.compile(model, backend=bridge_backend)
    x = torch.randn(4, 8, device=device)
    torch.testing.assert_close(fast(x, 2)["y"], model(x, 2)["y"], atol=1e-2, rtol=1e-2)
    model.linear.weight.mul_(-1.0)
    torch.testing.assert_close(fast(x, 2)["y"], model(x, 2)["y"], atol=1e-2, rtol=1e-2)
