"""bridge bench --engine: which kernels and layers are of which op, and how long each takes."""

import json
from types import SimpleNamespace

import pytest
import torch
from bench_models import HERE, MODEL, timing
from bench_rows import command

import bridge
from bridge.bench import engine, kernels, layers


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


def test_a_kernel_that_is_launched_early_counts_from_the_end_of_those_before_it():
    spans = [("second", 11.0, 32.0), ("first", 10.0, 30.0), ("within", 12.0, 29.0), ("third", 35.0, 40.0)]
    assert list(kernels.added(spans)) == [("first", 20.0), ("second", 2.0), ("within", 0.0), ("third", 5.0)]
    assert list(kernels.added([])) == []


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

    def new_context(self, for_capture):
        assert for_capture  # with the kernels that are timed
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
