"""torch.compile(backend="bridge"). Engines are built for a target; where a test is about what surrounds them, they run
their program in PyTorch on the CPU."""

import copy
import itertools
import math
import subprocess
import sys

import pytest
import torch
from compile_models import Attention, Convolutional, Deformable, Regions
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import bridge
from bridge.doors import backend
from bridge.doors.backend import bridge_backend
from bridge.errors import EngineError, EngineInputError

OPTIONS = {"target": "sm86", "cache": False}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def compiled(model, *, dynamic=None, **options):
    return torch.compile(model.eval(), backend=bridge_backend, dynamic=dynamic, options=OPTIONS | options)


def positions(batch, length):
    return torch.arange(length).repeat(batch, 1)


def built(module, *args):
    """Compiles by a first call, which ends where the engine would run."""
    with pytest.raises(EngineError, match="there is no CUDA GPU here"):
        module(*args)
    return bridge.report(module)


needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


# The same room behind each door


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
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "backend='bridge' raised" in found.stdout and "TargetError" in found.stdout, found


# Dynamic shapes


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


class LogGamma(nn.Module):
    """A number that no expression of symbols gives: torch.export takes it of one length."""

    def forward(self, x):
        return bridge.relu(x) * math.lgamma(x.shape[1] / 2)


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


# What else a graph takes and returns


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, scale, *, rows=None):
        y = bridge.relu(self.linear(x), 0.1) * scale
        return {"y": y, "rows": x.shape[0] * 2 + 1, "scale": scale, "none": rows, "more": (y + 1, x.shape[1])}


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


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        x = bridge.relu(self.linear(x), 0.1)
        print("here")
        return bridge.relu(self.linear(x) + 1.0)


class Unsupported(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        y = bridge.relu(self.linear(x), 0.1)
        values = torch.linalg.svdvals(y.double()).float()
        return bridge.relu(self.linear(y).view(y.shape[0] * 2, -1) + 1.0).sum() + values, y.view(y.shape[0], 2, -1)


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


# Report


@needs_no_gpu
def test_the_report_reads_well():
    text = str(built(compiled(Convolutional()), torch.randn(2, 3, 16, 12)))
    assert "engines        1, 0 from the cache" in text and "plugins: 2 relu" in text
    assert "x [2, 3, 16, 12] to [2, 3, 16, 12]" in text and "compile_models.py" in text


def test_a_report_of_something_else_is_a_type_error():
    with pytest.raises(TypeError, match=r"not a Linear"):
        bridge.report(nn.Linear(2, 2))


def test_a_report_of_two_compiled_models_keeps_them_apart(on_cpu):
    first, second = compiled(Numbers()), compiled(Convolutional())
    first(torch.randn(2, 8), 1)
    assert len(bridge.report(first).graphs) == 1 and not bridge.report(second).graphs


def test_functions_are_reported_too(on_cpu):
    def function(x):
        return bridge.relu(x * 2.0, 0.5)

    fast = torch.compile(function, backend=bridge_backend, options=OPTIONS)
    x = torch.randn(3, 4)
    torch.testing.assert_close(fast(x), function(x))
    assert bridge.report(fast).plugin_counts() == {"relu": 1}


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


@pytest.mark.gpu(engines=True)
def test_fallback_on_the_gpu_equals_eager(device):
    model = Unsupported().eval().to(device)
    fast = torch.compile(model, backend=bridge_backend, dynamic=True, options={"fallback": True})
    for batch in (4, 6, 8):  # above 8, the features, svdvals has a condition of its own
        x = torch.randn(batch, 8, device=device)
        for expected, actual in zip(model(x), fast(x), strict=True):
            torch.testing.assert_close(actual, expected, atol=2e-2, rtol=2e-2)
    assert len(bridge.report(fast).engines) == 2


@pytest.mark.gpu(engines=True)
def test_new_weights_on_the_gpu(device):
    model = Numbers().eval().to(device)
    fast = torch.compile(model, backend=bridge_backend)
    x = torch.randn(4, 8, device=device)
    torch.testing.assert_close(fast(x, 2)["y"], model(x, 2)["y"], atol=1e-2, rtol=1e-2)
    model.linear.weight.mul_(-1.0)
    torch.testing.assert_close(fast(x, 2)["y"], model(x, 2)["y"], atol=1e-2, rtol=1e-2)
