"""bridge bench --engine and --lowerings: what they build, count and say; on a GPU also what they measure."""

import json
import math
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

import bridge
from bridge import cli
from bridge.bench import engine, kernels, layers, model_lowerings
from bridge.config import Config
from bridge.doors import tuner
from bridge.doors.measured_lowerings import Measurement, remember
from bridge.doors.model_file import Model
from bridge.engine.error_metric import largest_error
from bridge.engine.timing import Timing
from bridge.tensorrt.install import flavour

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
MODEL = """
import bridge, torch

class Net(torch.nn.Module):
    def forward(self, x):
        return bridge.relu(bridge.relu(x @ x, 0.1).abs() + 1, float("inf"))

def bridge_model(argv):
    if "--fail" in argv:
        raise ValueError("asked to")
    return Net().eval(), (torch.randn(int(argv[-1]), 32, 32),)
"""
HERE = {"gpu": "NVIDIA A GPU", "driver": "1.2", "date": "2026-01-02", "versions": {"torch": "2.11"}}


def command(capsys, *arguments):
    code = cli.main(["bench", *map(str, arguments)])
    return code, *capsys.readouterr()


def timing(us, spread=0.1):
    return Timing(us, us - spread, us + spread, spread)


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return path


# Kernels


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("void bridge::relu_kernel<__half, 8>(__half const*, __half*, long, float, float)", "relu"),
        ("bridge::rope_kernel(int)", "rope"),
        ("void bridge::deform_conv2d_warpgroup_kernel<__half, bridge::WarpgroupTile<256> >(int)", "deform_conv2d"),
        ("_ZN6bridge11relu_kernelI6__halfEEvPKT_PS2_lff", "relu"),
        ("void at::native::unrolled<bridge::relu_kernel>(int)", None),
        ("void bridge::reluctant_kernel<int>()", None),
        ("sm80_xmma_gemm_f16f16", None),
        ("Memcpy DtoD (Device -> Device)", None),
    ],
)
def test_kernels_belong_to_ops_by_their_names(name, op):
    assert kernels.op_of(name) == op


def test_an_op_whose_name_begins_with_anothers(monkeypatch):
    monkeypatch.setitem(kernels.OPS, "relu_chain", None)
    assert kernels.op_of("void bridge::relu_chain_kernel<int>()") == "relu_chain"
    assert kernels.op_of("void bridge::relu_kernel<int>()") == "relu"


def test_launches_are_added_up_by_kernel():
    records = [("gemm", 5.0), ("void bridge::relu_kernel<int>()", 2.0)] * 4 + [("gemm", 7.0)] * 4
    first, second = kernels.group(records, runs=4)
    assert (first.name, first.op, first.launches, first.us) == ("gemm", None, 2.0, 12.0)
    assert (second.op, second.launches, second.us) == ("relu", 1.0, 2.0)
    assert kernels.group([], runs=4) == []


@pytest.mark.gpu
def test_the_kernels_of_a_call(device):
    x = torch.randn(1 << 20, device=device)
    found = kernels.trace(lambda: bridge.relu(torch.sin(x)))
    (relu,) = (kernel for kernel in found if kernel.op)
    assert relu.op == "relu" and relu.launches == pytest.approx(1.0, abs=0.1) and 0.5 < relu.us < 1000
    assert len(found) == 2 and sum(kernel.launches for kernel in found) == pytest.approx(2.0, abs=0.2)


# Layers


class FakeEngine:
    """An engine whose TensorRT reports two layers in each run, once a profiler is set."""

    def __init__(self, names):
        class IProfiler:
            pass

        self.flavour = SimpleNamespace(trt=lambda: SimpleNamespace(IProfiler=IProfiler))
        plugin = {"name": "[bridge::relu]-[/relu]", "op": "relu"}
        self.file = SimpleNamespace(layers=[plugin, {"name": "[bridge::relu]-[/native]", "op": None}])
        self.names = names

    def new_context(self):
        native = SimpleNamespace(profiler=None)

        def call(*inputs):
            for name in self.names if native.profiler else ():
                native.profiler.report_layer_time(name, 0.5)

        call.native = native
        return call


def test_layers_are_marked_with_the_ops_of_plugins(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    names = ["[bridge::relu]-[/relu]", "cast + [bridge::relu]-[/relu] + add", "[bridge::relu]-[/native]", "gemm"]
    found = layers.trace(FakeEngine(names), [], runs=4)
    assert [(layer.name, layer.op) for layer in found] == list(zip(names, ["relu", "relu", None, None], strict=True))
    assert all(layer.us == pytest.approx(500.0) for layer in found)
    assert layers.trace(FakeEngine([]), []) == []


# Engines


def recorded_engine():
    parts = [
        {"name": "gemm" * 50, "op": None, "launches": 1.0, "us": 30.0},
        {"name": "void bridge::relu_kernel<int>()", "op": "relu", "launches": 2.5, "us": 10.0},
    ]
    named = [{name: part[name] for name in ("name", "op", "us")} for part in parts]
    times = {"us": 41.0, "low_us": 40.0, "high_us": 42.0}
    facts = {"schema": 1, "file": "a.engine", **HERE, "plugins": {"relu": 2}, "inputs": {"x": [1, 2]}}
    return {**facts, **times, "kernels": parts, "layers": named}


def test_the_table_shows_each_kernels_share():
    text = engine.table(recorded_engine())
    assert "2 relu" in text and "41.0 (40.0 to 42.0)" in text and "x [1, 2]" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["plugin", "relu", "2.5", "10.00", "25.0%", "void", "bridge::relu_kernel<int>()"] in lines
    assert ["plugins", "10.00", "25.0%"] in lines and ["all", "40.00"] in lines
    assert max(map(len, text.splitlines())) <= 140


def test_what_was_not_reported_is_said():
    text = engine.table(recorded_engine() | {"kernels": [], "layers": []})
    assert "CUPTI recorded none" in text and "TensorRT reported the time of none" in text


def test_a_recorded_engine_can_be_shown_without_a_gpu(capsys, tmp_path):
    (tmp_path / "engine.json").write_text(json.dumps(recorded_engine()))
    code, out, _ = command(capsys, "--against", tmp_path / "engine.json")
    assert code == 0 and out.strip() == engine.table(recorded_engine())


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_an_engine_without_a_gpu_or_a_file(capsys, tmp_path, make_engine_file):
    make_engine_file().save(tmp_path / "a.engine")
    code, _, err = command(capsys, "--engine", tmp_path / "a.engine")
    assert code == 7 and "an engine is measured on a CUDA GPU, and there is none" in err
    assert command(capsys, "--engine", tmp_path / "none.engine")[0] == 5


def test_parts_are_shown_and_kept_as_they_are_measured(capsys, tmp_path, make_engine_file, monkeypatch):
    """Without a GPU, with what is measured made up; the layers fail."""

    class Engine(FakeEngine):
        def __init__(self, file):
            self.file = file

        def new_context(self, **settings):
            return lambda *inputs: None

    def fail(engine, inputs):
        assert json.loads(path.read_text())["kernels"][0]["op"] == "relu" and len(inputs) == 2
        raise bridge.errors.EngineError("no profiler")

    path = tmp_path / "engine.json"
    make_engine_file().save(tmp_path / "a.engine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engine, "environment", lambda: HERE | {"versions": {"torch": "2.11"}})
    monkeypatch.setattr(engine, "_input", lambda spec: torch.empty(spec.opt))
    monkeypatch.setattr(engine, "Engine", Engine)
    monkeypatch.setattr(engine, "compare", lambda engines, inputs: [timing(30.0)])
    monkeypatch.setattr(kernels, "trace", lambda call: [kernels.Kernel("k", "relu", 1.0, 20.0)])
    monkeypatch.setattr(layers, "trace", fail)
    code, out, err = command(capsys, "--engine", tmp_path / "a.engine", "--json", path)
    assert code == 7 and "no profiler" in err
    assert "tensorrt_rtx 1.7.1.116" in out and "30.0 (29.9 to 30.1)" in out and "plugin relu  1" in out
    monkeypatch.setattr(layers, "trace", lambda engine, inputs: [layers.Layer("a", None, 3.0)])
    assert command(capsys, "--engine", tmp_path / "a.engine", "--json", path)[0] == 0
    found = json.loads(path.read_text())
    assert found["layers"] == [{"name": "a", "op": None, "us": 3.0}] and found["versions"]["torch"] == "2.11"


@pytest.mark.gpu(engines=True)
def test_an_engine_is_measured_by_kernel_and_layer(capsys, tmp_path, model_path):
    namespace = {}
    exec(MODEL, namespace)
    model, args = namespace["bridge_model"](["4"])
    bridge.compile(model, args, lowering="plugin").save(tmp_path / "net.engine")
    code, out, _ = command(capsys, "--engine", tmp_path / "net.engine", "--json", tmp_path / "net.json")
    found = json.loads((tmp_path / "net.json").read_text())
    ours = [kernel for kernel in found["kernels"] if kernel["op"] == "relu"]
    assert code == 0 and "plugin relu" in out and found["us"] > 1
    assert sum(kernel["launches"] for kernel in ours) == pytest.approx(2.0, abs=0.2)
    assert 0 < sum(kernel["us"] for kernel in ours) < sum(kernel["us"] for kernel in found["kernels"])
    for layer in found["layers"]:
        assert layer["us"] >= 0


# Lowerings


def test_auto_may_be_slower_by_the_noise():
    ways, errors = ("plugin", "native", "auto"), {"plugin": 0.0, "native": 1e-2}
    assert model_lowerings.verdict(dict(zip(ways, map(timing, (20.0, 10.0, 10.1)), strict=True)), errors) == {
        "better": "native",
        "noise_us": pytest.approx(0.2),
        "auto_is_best": True,
    }
    slow = model_lowerings.verdict(dict(zip(ways, map(timing, (10.0, 20.0, 10.3)), strict=True)), errors)
    assert slow["better"] == "plugin" and not slow["auto_is_best"]
    noisy = model_lowerings.verdict(
        dict(zip(ways, (timing(10.0), timing(20.0), timing(10.3, 1.0)), strict=True)), errors
    )
    assert noisy["auto_is_best"]


@pytest.mark.parametrize("error", [1.5, math.inf, math.nan])
def test_what_is_wrong_is_not_the_better(error):
    times = {"plugin": timing(20.0), "native": timing(10.0), "auto": timing(20.1)}
    found = model_lowerings.verdict(times, {"plugin": 1e-3, "native": error})
    assert found["better"] == "plugin" and found["auto_is_best"]
    assert model_lowerings.verdict(times, {"plugin": error, "native": error})["better"] == "native"


def test_errors_are_of_the_worst_tensor():
    expected = {"a": torch.tensor([1.0, -4.0]), "b": (torch.tensor([2.0]), None), "c": torch.zeros(0)}
    actual = {"a": torch.tensor([1.0, -4.4]), "b": (torch.tensor([2.5]), None), "c": torch.zeros(0)}
    assert largest_error(actual, expected) == pytest.approx(0.25)
    assert largest_error(expected, expected) == 0.0
    assert math.isnan(largest_error([torch.tensor(math.nan), actual["b"]], [torch.ones(()), expected["b"]]))
    assert largest_error(torch.ones(2), torch.zeros(2)) == 1.0
    infinite = torch.tensor([math.inf, -math.inf, 2.0])
    assert largest_error(infinite, infinite) == 0.0
    assert largest_error(infinite + torch.tensor([0.0, 0.0, 0.5]), infinite) == 0.25
    assert largest_error(-infinite, infinite) == math.inf


@pytest.mark.parametrize("exported", [False, True])
def test_engines_are_compared_with_eager_on_keyword_and_other_arguments(monkeypatch, exported):
    class Net(torch.nn.Linear):
        def forward(self, x, scale=1.0, bias=None):
            return {"y": super().forward(x) * scale + bias}

    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.clone)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    net, args, kwargs = Net(3, 2).eval(), (torch.randn(4, 3), 2.0), {"bias": torch.ones(2)}
    model = Model(torch.export.export(net, args, kwargs) if exported else net, args, kwargs)
    engines = {"plugin": net, "auto": lambda *args, **kwargs: {"y": net(*args, **kwargs)["y"] * 1.5}}
    assert model_lowerings._errors(model, engines) == {"plugin": pytest.approx(0, abs=1e-6), "auto": pytest.approx(0.5)}


@needs_torch_tensorrt
def test_each_way_has_its_engine(model_path):
    """relu with an infinite slope has no native layers; what was measured decides for the other."""
    namespace = {}
    exec(MODEL, namespace)
    model = Model(*namespace["bridge_model"](["4"]))
    config = Config(target="sm86", progress=False)
    found = flavour.detect()
    kind = "relu(x: float32[4, 32, 32], negative_slope=0.1, max_value=inf)"
    facts = (found.name, found.version, bridge.__version__, "2026-01-01")
    for lowering in ("native", "plugin"):
        times = (9.0, 5.0) if lowering == "native" else (5.0, 9.0)
        remember(config, [Measurement(kind, lowering, *times, 0.1, "NVIDIA A10", "sm86", *facts)])
        engines = model_lowerings.build(model, config)
        counts = {way: engine.plugin_counts()["relu"] for way, engine in engines.items()}
        assert counts == {"plugin": 2, "native": 1, "auto": 1 if lowering == "native" else 2}
    row = model_lowerings._row(timing(1.0), engines["native"], 1e-3)
    assert row["calls"] == {"relu native": 1, "relu plugin": 1}


@needs_torch_tensorrt
def test_models_are_measured_shown_and_kept(capsys, tmp_path, model_path, monkeypatch):
    """Without a GPU: the engines are built for another one, and their times made up."""

    def settle(target="sm86", **settings):
        return Config(target=target, **settings)

    def tune(*arguments, config, **rest):
        left_out = {"relu(of infinite slope)": "negative_slope is inf"}
        return tuner.Tuning((), left_out)

    monkeypatch.setattr(model_lowerings, "_check_gpu", lambda: None)
    monkeypatch.setattr(model_lowerings, "environment", lambda: HERE | {"versions": {"torch": "2.11"}})
    monkeypatch.setattr(model_lowerings, "Config", settle)
    monkeypatch.setattr(model_lowerings, "Engine", lambda file: file)
    monkeypatch.setattr(model_lowerings, "_errors", lambda model, engines: dict.fromkeys(engines, 1e-3))
    monkeypatch.setattr(model_lowerings, "compare", lambda engines, inputs: [timing(us) for us in (9.0, 5.0, 9.0)])
    monkeypatch.setattr(tuner, "tune", tune)
    monkeypatch.setattr(tuner, "example_inputs", lambda *rest: [torch.empty(3, 32, 32)])
    path = tmp_path / "run.json"
    code, out, _ = command(capsys, "--lowerings", model_path, "--json", path, "--", "--size", "3")
    assert code == 1 and "SLOWER: net.py: auto takes 9.0 us, native 5.0 us" in out
    assert "1 relu native, 1 relu plugin" in out and "negative_slope is inf" in out and "--size 3" in out
    (model,) = json.loads(path.read_text())["models"]
    assert model["inputs"] == {"x": [3, 32, 32]} and model["name"] == "Net" and not model["auto_is_best"]
    monkeypatch.undo()
    code, again, _ = command(capsys, "--against", path)
    assert code == 0 and again == out


def test_a_model_that_fails_does_not_end_the_run(capsys, tmp_path, model_path, monkeypatch):
    def measure(model, versions):
        raise bridge.errors.BuildError("no such layer")

    monkeypatch.setattr(model_lowerings, "_check_gpu", lambda: None)
    monkeypatch.setattr(model_lowerings, "environment", lambda: HERE)
    monkeypatch.setattr(model_lowerings, "_measure", measure)
    other = tmp_path / "other.py"
    other.write_text(MODEL)
    code, out, _ = command(capsys, "--lowerings", model_path, other, "--", "2")
    assert code == 1 and "FAILED: net.py: BuildError: no such layer\nFAILED: other.py: " in out
    code, _, err = command(capsys, "--lowerings", model_path, "--", "--fail")
    assert code == 1 and "ValueError: asked to" in err


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--record"], "--record"),
        (["--growth", "--plot", "a.png", "--engine", "b"], "--growth, --plot, --lowerings"),
        (["--peers", "--list"], "--list"),
        (["--peers"], "--peers"),
        (["--workload", "x", "--against", "y"], "--workload, --against"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(capsys, flags, names):
    code, _, err = command(capsys, *flags, "--lowerings", "net.py")
    first = "engine" if "--engine" in flags else "lowerings"
    assert code == 2 and f"--{first} goes with --json alone, not with {names}\n" in err
    code, _, err = command(capsys, "relu", "--engine", "a.engine")
    assert code == 2 and "not with OP" in err


def test_flags_of_models_need_models(capsys, model_path):
    with pytest.raises(SystemExit):
        cli.main(["bench", "relu", "--", "--size", "3"])
    assert "bench takes nothing after --" in capsys.readouterr().err
    if not torch.cuda.is_available():
        code, _, err = command(capsys, "--lowerings", model_path)
        assert code == 7 and "lowerings are measured on a CUDA GPU, and there is none" in err


@pytest.mark.gpu(engines=True)
def test_lowerings_are_measured(capsys, tmp_path, model_path):
    path = tmp_path / "run.json"
    command(capsys, "--lowerings", model_path, "--json", path, "--", "64")
    (model,) = json.loads(path.read_text())["models"]
    assert set(model["lowerings"]) == {"plugin", "native", "auto"} and len(model["tuning"]) == 1
    for row in model["lowerings"].values():
        assert 1 < row["low_us"] <= row["us"] <= row["high_us"]
    assert model["lowerings"]["plugin"]["error"] < 1e-2 and model["lowerings"]["auto"]["error"] < 1e-2
    # TensorRT-RTX 1.6.1 is wrong where it fuses this product with an activation; then the plugin is to be kept.
    assert model["lowerings"]["native"]["error"] < 1e-2 or model["tuning"][0]["lowering"] == "plugin"
