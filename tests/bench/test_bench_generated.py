"""bridge bench --generated: generated plugins beside Triton and Inductor."""

import json
import runpy
from pathlib import Path

import fresh_process
import pytest
import torch
from bench_models import HERE, timing
from bench_rows import command
from torch import nn

import bridge
from bridge.bench import baseline
from bridge.bench.generated import formulas, measure, table
from bridge.bench.generated.workload import INDUCTOR, TRITON, Workload, select, workloads
from bridge.doors.generation import marked_instances
from bridge.generate.inductor import wrote_all

RESULTS = Path(__file__).parents[2] / "docs" / "generate_results.py"


def row(workload=None, us=10.0, **changes):
    """What was measured of a workload; the other takes 10 µs."""
    workload = workload or next(workloads())
    found = {"us": us, "low_us": us - 0.1, "high_us": us + 0.1, "error": 1e-4, "right": True}
    peers = {"slow": found | {"us": 20.0}, workload.kernels: found | {"us": 10.0, "error": 2e-4}}
    facts = {"workload": workload.name, "dtype": workload.dtype, "kernels": workload.kernels, "launches": [1, 1, 2]}
    shapes = [list(shape) for shape in workload.shapes]
    return {**facts, "shapes": shapes, **found, "tuned": None, "pytorch_error": 3e-4, "peers": peers} | changes


def run_of(*rows):
    return {"schema": 1, **HERE, "generated": list(rows)}


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Where records go."""
    monkeypatch.setattr(baseline, "FOLDER", tmp_path / "baselines")
    return tmp_path / "baselines" / "generated" / "nvidia_a_gpu.json"


# What is measured

SMALL = {
    formulas.rms_norm: ((5, 33), (33,)),
    formulas.swiglu: ((5, 66),),
    formulas.layer_norm_gelu: ((2, 3, 33), (33,), (33,)),
    formulas.group_norm_silu: ((2, 64, 5, 7), (64,), (64,)),
    formulas.focal_loss: ((3, 50), (3, 50)),
    formulas.cost_volume: ((2, 6, 5, 7), (2, 6, 5, 7)),
    formulas.cumulative_sum: ((3, 50),),
    formulas.windowed_softmax: ((2, 300, 300),),
    formulas.attention_weights: ((2, 9, 16), (2, 16, 9)),
}


@pytest.mark.parametrize("workload", list(workloads()), ids=lambda each: f"{each.name}, {each.kernels}")
def test_functions_compute_in_their_dtype_and_in_float64(workload):
    inputs = [torch.randn(shape).to(getattr(torch, workload.dtype)) for shape in SMALL[workload.function]]
    result, exact = workload.function(*inputs), workload.function(*(each.double() for each in inputs))
    assert result.dtype == inputs[0].dtype and exact.dtype == torch.float64 and exact.isfinite().all()
    assert measure.is_right(result, result, exact) and not measure.is_right(result + 1, result, exact)
    for shape, dynamic in zip(workload.shapes, workload.dynamic_shapes(), strict=True):
        assert dynamic is None or (dynamic[0].min == 1 and dynamic[0].max == 4 * shape[0])


_INTERPRETED = """
import torch
from interpreted_kernels import traceable
from region_interpreter import run_instance
from traced import instance_of
from bridge.bench.generated import formulas, triton_ops

x, weight = torch.randn(5, 40), torch.randn(40)
for op in (triton_ops.rms_norm, triton_ops.rms_norm_in_two):
    with traceable():
        instance = instance_of(op._abstract_fn, (torch.float32, ((1, 8, 4), 40)), (torch.float32, (40,)))
    for configuration in range(4):
        (result,) = run_instance(instance, [x, weight], configuration)
        torch.testing.assert_close(result, formulas.rms_norm(x, weight))
"""


def test_the_operators_in_triton_compute_what_their_functions_do():
    done = fresh_process.run(_INTERPRETED, TRITON_INTERPRET="1", PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr


class Calls(nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, *inputs):
        return self.operator(*inputs)


@pytest.mark.parametrize("name", ["RMS norm in two", "focal loss", "softmax of a product"])
def test_workloads_become_plugins_with_a_dynamic_batch(name):
    (workload,) = select([name])
    inputs, sizes = workload.inputs("cpu"), (workload.dynamic_shapes(),)
    program = torch.export.export(Calls(workload.operator).eval(), inputs, dynamic_shapes=sizes)
    (instance,) = marked_instances(program.graph)
    (batch,) = instance.symbols
    assert (batch.low, batch.example, batch.high) == (1, workload.shapes[0][0], 4 * workload.shapes[0][0])
    assert wrote_all(instance) == (workload.kernels == INDUCTOR)


def test_an_engine_that_is_not_one_plugin_is_refused(evaluated):
    compiled = bridge.compile(nn.ReLU().eval(), (torch.randn(2, 3),), target="sm86", cache=False)
    with pytest.raises(RuntimeError, match=r"plugins \{\}, expected one that was generated"):
        measure._checked(compiled)


# A run


class FakeEngine:
    """An engine whose result is off by a factor."""

    def __init__(self, workload, factor):
        self.workload, self.factor, self.file = workload, factor, self
        self.flavour, self.tensorrt_version = "tensorrt_rtx", "1.7"
        self.metadata = {"generated": [{"regions": [{"launches": 2}, {"launches": 1}]}]}

    def __call__(self, *inputs):
        return self.workload.function(*inputs) * self.factor


@pytest.fixture
def without_gpu(monkeypatch):
    """Engines and times are made up, and the CPU computes results. Returns by what factors those of engines are off."""
    factors = {"": 1.0, "tuned": 1.0}

    def engines(workload, inputs, tune):
        yield from ((name, FakeEngine(workload, factors[name])) for name in (("", "tuned") if tune else ("",)))

    def inputs(workload, device):
        return [torch.randn(shape).to(getattr(torch, workload.dtype)) for shape in SMALL[workload.function]]

    monkeypatch.setattr(Workload, "inputs", inputs)
    monkeypatch.setattr(measure, "_check_gpu", lambda: None)
    monkeypatch.setattr(measure, "environment", lambda: HERE | {"versions": {"torch": "2.11"}})
    monkeypatch.setattr(measure, "_engines", engines)
    monkeypatch.setattr(measure, "Engine", lambda file: file)
    monkeypatch.setattr(
        measure, "peers", lambda workload: dict.fromkeys(("inductor", "inductor, dynamic"), workload.function)
    )
    monkeypatch.setattr(
        measure, "compare", lambda engines, inputs, calls: [timing(10.0 + n) for n in range(len(engines) + len(calls))]
    )
    return factors


def test_a_run_is_shown_kept_and_shown_again(capsys, tmp_path, without_gpu):
    path = tmp_path / "run.json"
    code, out, _ = command(capsys, "--generated", "cumulative", "--json", path)
    (kept,) = json.loads(path.read_text())["generated"]
    assert code == 0 and kept["launches"] == [2, 1] and kept["tuned"] is None and kept["right"]
    assert set(kept["peers"]) == {"inductor", "inductor, dynamic"} and kept["us"] == 10 and kept["error"] < 1e-6
    assert "cumulative sum  float32  inductor  1/2       10.00  9.90-10.10         inductor    11.00  0.91" in out
    code, again, _ = command(capsys, "--against", path)
    assert code == 0 and again == out


def test_an_engine_after_tuning_is_the_one_that_counts(capsys, tmp_path, without_gpu):
    path = tmp_path / "run.json"
    code, out, _ = command(capsys, "--generated", "cumulative", "--tune", "--json", path)
    (kept,) = json.loads(path.read_text())["generated"]
    assert code == 0 and (kept["us"], kept["tuned"]["us"], kept["peers"]["inductor"]["us"]) == (10, 11, 12)
    assert table.ratio(kept) == pytest.approx(11 / 12) and "11.00  inductor" in out


@pytest.mark.parametrize("wrong", ["", "tuned"])
def test_wrong_results_are_named(capsys, without_gpu, wrong):
    without_gpu[wrong] = 1.5
    code, out, _ = command(capsys, "--generated", "cumulative", "--tune")
    assert code == 1 and "WRONG: cumulative sum, float32, inductor: error " in out


def test_a_failure_does_not_end_the_run(capsys, monkeypatch, without_gpu):
    def failing(workload, *rest):
        if workload.name == "focal loss":
            raise bridge.errors.BuildError("no such kernel")
        return row(workload)

    monkeypatch.setattr(measure, "measure", failing)
    code, out, err = command(capsys, "--generated", "focal", "cumulative")
    assert code == 1 and "FAILED: focal loss, float32, inductor: BuildError: no such kernel" in out
    assert "cumulative sum  float32" in out and "focal loss, float32: BuildError: no such kernel" in err


def test_what_is_slower_than_the_best_other_is_named():
    text = table.table(run_of(row(us=10.4), row(us=12.0)))
    assert text.count("SLOWER: RMS norm, float16, triton: 1.20 times triton") == text.count("SLOWER") == 1


# Records


def test_a_record_has_every_workload(capsys, tmp_path, recorded):
    path = tmp_path / "run.json"
    whole = run_of(*map(row, workloads()))
    path.write_text(json.dumps(whole))
    code, out, _ = command(capsys, "--against", path, "--record")
    assert code == 0 and f"recorded in {recorded}" in out and json.loads(recorded.read_text()) == whole
    path.write_text(json.dumps(run_of(*map(row, list(workloads())[1:]))))
    code, _, err = command(capsys, "--against", path, "--record")
    assert code == 2 and "not recorded: RMS norm failed, or is wrong, or was not measured" in err
    first, *rest = workloads()
    for changes in ({"right": False}, {"failed": "BuildError"}, {"tuned": {"us": 1.0, "error": 1.0, "right": False}}):
        with pytest.raises(ValueError, match="not recorded: RMS norm"):
            table.record(run_of(row(first, **changes), *map(row, rest)))


def test_records_are_among_the_results(recorded, tmp_path):
    table.record(run_of(*(row(each, tuned=row(each, us=9.0)) for each in workloads())))
    page = runpy.run_path(str(RESULTS), {"BASELINES": None})
    page["page"].__globals__["BASELINES"] = tmp_path / "baselines"
    text = page["page"]()
    assert "## Generated plugins on NVIDIA A GPU\n\nNVIDIA A GPU, driver 1.2, torch 2.11, 2026-01-02." in text
    line = (
        "| RMS norm in two (4096x4096, 4096) | bfloat16 | triton | 1/2 | 10 | 9 | slow 20; triton 10 | 0.90 | 1.0e-04 |"
    )
    assert line in text


# Flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--generated", "nothing"], "no generated workload's name holds 'nothing'; there are RMS norm; RMS norm, 5"),
        (
            ["--generated", "--growth"],
            "--generated goes with --json, --list, --record, --tune alone, not with --growth",
        ),
        (["--generated", "focal", "--record"], "a record has every workload: leave focal out, or --record"),
        (["relu", "--tune"], "--tune goes with --generated"),
        (["--engine", "a.engine", "--tune"], "--engine goes with --json alone, not with --tune"),
    ],
)
def test_flags_that_do_not_fit_are_refused(capsys, flags, message):
    code, _, err = command(capsys, *flags)
    assert code == 2 and message in err


def test_workloads_are_listed(capsys):
    code, out, _ = command(capsys, "--generated", "cost", "--list")
    assert code == 0 and out == "cost volume  float16  inductor  [(4, 32, 96, 160), (4, 32, 96, 160)]\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_says_so(capsys):
    code, _, err = command(capsys, "--generated")
    assert code == 7 and "generated plugins are measured on a CUDA GPU, and there is none" in err


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("name", ["5 rows", "softmax of a product"])
def test_generated_plugins_are_measured(capsys, tmp_path, name):
    path = tmp_path / "run.json"
    code, out, _ = command(capsys, "--generated", name, "--json", path)
    (kept,) = json.loads(path.read_text())["generated"]
    assert code == 0 and "failed" not in kept and kept["right"] and kept["error"] < 1e-2, out
    names = {TRITON: {TRITON}, INDUCTOR: {"inductor", "inductor, dynamic"}}
    assert set(kept["peers"]) == names[kept["kernels"]]
    for each in (kept, *kept["peers"].values()):
        assert 0.5 < each["low_us"] <= each["us"] <= each["high_us"] < 1000
    assert 0.1 < table.ratio(kept) < 5
