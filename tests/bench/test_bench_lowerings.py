"""bridge bench --lowerings: models by each way of lowering, beside eager."""

import json
import math

import pytest
import torch
from bench_models import HERE, MODEL, needs_torch_tensorrt, timing
from bench_rows import command

import bridge
from bridge import cli
from bridge.bench import model_lowerings
from bridge.config import Config
from bridge.doors.lowerings import measured_lowerings, tuner
from bridge.doors.lowerings.measured_lowerings import Measurement
from bridge.doors.model_file import Model
from bridge.engine.error_metric import largest_error
from bridge.tensorrt.install import flavour


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
    facts = {"target": "sm86", "gpu": "NVIDIA A10", "measured": "2026-01-01", "bridge": bridge.__version__}
    facts |= {"flavour": found.name, "tensorrt": found.version}
    for lowering in ("native", "plugin"):
        plugin_us, native_us = (9.0, 5.0) if lowering == "native" else (5.0, 9.0)
        times = {"plugin_us": plugin_us, "native_us": native_us, "noise_us": 0.1}
        measured_lowerings.FILE.store(config, [Measurement(kind=kind, lowering=lowering, **times, **facts)])
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
