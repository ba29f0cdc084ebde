"""bridge run: what it refuses before it needs a GPU, what it makes of inputs, and what it prints."""

import json

import numpy
import pytest
import torch
from command_runs import run

from bridge.bench import layers, measure
from bridge.cli import self_test
from bridge.cli.engines import run_inputs, run_report, shape_options
from bridge.engine import latency
from bridge.engine.latency import Measurement, Sample
from bridge.engine_file.contents import TensorSpec
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.run import engine

X = ("--shapes", "x:2x3x8")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def npy(path, array):
    numpy.save(path, array)
    return path


# Shapes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:4x3", {"x": ((4, 3),)}),
        ("x:4x3,n:scalar", {"x": ((4, 3),), "n": ((),)}),
        ("a,b:c:1,x:0x2", {"a,b:c": ((1,),), "x": ((0, 2),)}),
    ],
)
def test_shapes_by_name(text, expected):
    assert shape_options.shapes("an example", 1)(text) == expected
    assert f"x:{shape_options.text_of((4, 3))}" == "x:4x3" and shape_options.text_of(()) == "scalar"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shapes", "x"], "'x' is not of the form x:4x3x224x224,ids:4x77"),
        (["--shapes", ""], "'' is not of the form"),
        (["--shapes", "x:4x-3"], "'x:4x-3' is not of the form"),
        (["--shapes", "n:1,x:4,5"], "'5' is not of the form"),
        (["--shapes", "x:1/2/3"], "'x:1/2/3' is not of the form"),
        (["--shapes", "x:4,x:5"], "input 'x' is given twice"),
        (["--shapes", "x:4", "--shapes", "x:5"], "input 'x' is given twice"),
        (["--shapes", "x:4294967296"], "4294967296 has an extent beyond 2147483647"),
        (["--iterations", "0"], "'0' is no integer of at least 1"),
        (["--warm-up", "-1"], "'-1' is no integer of at least 0"),
        (["--shapes", "y:1"], "the engine has no input 'y'; it has x, n"),
        (["--load", "xx:f.npy"], "the engine has no input 'xx'; it has x, n"),
        (["--load", "x"], "'x' is not of the form NAME:FILE.npy"),
        (["--shapes", "x:4x3"], "input x has shape (4, 3), of rank 2; the engine takes rank 3, from (1, 3, 0) to (16,"),
        (["--shapes", "x:17x3x8"], "dimension 0 is 17, and the engine takes 1 to 16"),
        (["--shapes", "n:1"], "input n has shape (1,), of rank 1"),
        (["--load", "x:none.npy"], "there is no file none.npy to load input x from"),
    ],
)
def test_what_is_wrong_needs_no_gpu(capsys, saved, no_gpu, flags, words):
    code, out, err = run(capsys, "run", saved, *flags)
    assert (code, out) == (2, "") and words in err
    assert err.startswith("usage: bridge run FILE.engine [options]")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (numpy.zeros((2, 3, 8)), "has dtype float64; input x takes float16: save it as array.astype('float16')"),
        (numpy.zeros((2, 3), "float16"), "input x has shape (2, 3), of rank 2"),
        (numpy.zeros((2, 3, 65), "float16"), "dimension 2 is 65, and the engine takes 0 to 64"),
        (numpy.zeros((3, 3, 8), "float16"), "x.npy has the shape 3x3x8, and --shapes says 2x3x8"),
        (numpy.array([{}]), "is no .npy file, which input x is loaded from"),
        (None, "is no .npy file, which input x is loaded from"),
    ],
)
def test_files_that_do_not_fit(capsys, saved, no_gpu, tmp_path, array, words):
    path = tmp_path / "x.npy"
    if array is None:
        path.write_bytes(b"\x93NUMPY")
    else:
        npy(path, array)
    shapes = X if "--shapes" in words else ()
    code, out, err = run(capsys, "run", saved, *shapes, "--load", f"x:{path}")
    assert (code, out) == (2, "") and words in err


def test_an_archive_of_arrays_and_a_file_given_twice(capsys, saved, no_gpu, tmp_path):
    numpy.savez(tmp_path / "x.npz", numpy.zeros(2))
    assert "is an archive of arrays" in run(capsys, "run", saved, "--load", f"x:{tmp_path / 'x.npz'}")[2]
    assert "input x is loaded twice, from a and b" in run(capsys, "run", saved, "--load", "x:a", "--load", "x:b")[2]


def test_a_folder_that_cannot_be_made(capsys, saved, no_gpu):
    code, _, err = run(capsys, "run", saved, "--save", saved / "outputs")
    assert code == 2 and f"outputs cannot be saved in {saved / 'outputs'}: Not a directory" in err


def test_without_a_gpu(capsys, saved, no_gpu, builder):
    code, out, err = run(capsys, "run", saved, *X)
    assert (code, out) == (7, "")
    assert err.startswith("bridge: there is no CUDA GPU here to run on; the engine was built with tensorrt_rtx")


def test_a_file_that_is_no_engine(capsys, tmp_path):
    (tmp_path / "a.engine").write_text("none")
    assert run(capsys, "run", tmp_path / "a.engine")[0] == 5


# Inputs

SPECS = (
    TensorSpec("x", "float16", (1, 3), (4, 3), (8, 3)),
    TensorSpec("ids", "int64", (2,), (20,), (40,)),
    TensorSpec("mask", "bool", (50,), (50,), (50,)),
    TensorSpec("b", "bfloat16", (2,), (2,), (2,)),
)


def test_random_inputs_have_the_tuned_shape_and_depend_on_the_seed_alone():
    first, again, other = (
        [each.tensor(seed) for each in run_inputs.inputs_of(SPECS, {"ids": ((30,),)}, [])] for seed in (0, 0, 1)
    )
    assert [str(each.dtype)[6:] for each in first] == [spec.dtype for spec in SPECS]
    assert [tuple(each.shape) for each in first] == [(4, 3), (30,), (50,), (2,)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[2], other[2])
    assert set(first[1].tolist()) == {0, 1} and set(first[2].tolist()) == {False, True}


def test_inputs_from_files(tmp_path):
    x = numpy.asfortranarray(numpy.arange(6.0, dtype=">f2").reshape(2, 3))
    files = [f"x:{npy(tmp_path / 'a:b.npy', x)}", f"b:{npy(tmp_path / 'b.npy', numpy.array([1.0, 0.1], 'float32'))}"]
    found = run_inputs.inputs_of(SPECS, {}, files)
    assert torch.equal(found[0].tensor(0), torch.arange(6.0, dtype=torch.float16).reshape(2, 3))
    assert torch.equal(found[3].tensor(0), torch.tensor([1.0, 0.1], dtype=torch.bfloat16))
    assert found[0].source(0) == str(tmp_path / "a:b.npy") and found[1].source(3) == "random, seed 3"


# What is printed


class CpuEngine:
    """Called like an engine, computes on the CPU."""

    device = torch.device("cpu")

    def __init__(self, file, **settings):
        self.settings = settings

    def __call__(self, x, n):
        return ((x + n).to(torch.bfloat16),)


@pytest.fixture
def on_cpu(monkeypatch):
    facts = {"gpu": "H", "driver": "1", "date": "2026-01-01", "versions": {"bridge": "0"}}
    samples = tuple(Sample(100.0 + step, 10.0, 200.0) for step in range(10))
    monkeypatch.setattr(engine, "Engine", CpuEngine)
    monkeypatch.setattr(measure, "environment", lambda: facts)
    monkeypatch.setattr(latency, "measure", lambda *arguments: Measurement(samples, 0.01))
    found = [layers.Layer("a", "relu", 30.0), layers.Layer("b\x1b[2J", None, 10.0)]
    monkeypatch.setattr(layers, "trace", lambda *arguments: found)


def test_a_run_as_json(capsys, saved, on_cpu, tmp_path):
    x, n = numpy.full((1, 3, 2), 1.0078125, "float16"), numpy.array(2)
    files = ("--load", f"x:{npy(tmp_path / 'x.npy', x)}", "--load", f"n:{npy(tmp_path / 'n.npy', n)}")
    code, out, err = run(capsys, "run", saved, *files, "--save", tmp_path / "out/a", "--json", "--profile")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert list(result["us"]["gpu"]) == ["min", "median", "mean", "p90", "p95", "p99", "max"]
    assert list(result["us"]["gpu"].values()) == [100, 104.5, 104.5, 108, 109, 109, 109]
    assert result["runs_per_second"] == 1000 and result["iterations"] == 100 and result["warm_up"] == 10
    assert result["layers"][0] == {"name": "a", "op": "relu", "us": 30.0, "share": 0.75}
    y = {"name": "y", "dtype": "bfloat16", "shape": [1, 3, 2], "file": str(tmp_path / "out/a/y.npy")}
    assert result["outputs"] == [y] and result["inputs"][1] == {
        "name": "n",
        "dtype": "int64",
        "shape": [],
        "from": str(tmp_path / "n.npy"),
    }
    values = numpy.load(tmp_path / "out/a/y.npy")
    assert values.dtype == "float32" and numpy.array_equal(values, numpy.full((1, 3, 2), 3.0))


def test_a_run_for_reading(capsys, saved, on_cpu):
    code, out, err = run(capsys, "run", saved, *X, "--profile", "--streams", "2", "--seed", "5")
    assert (code, err) == (0, "")
    assert "input       x float16 [2, 3, 8] random, seed 5" in out
    assert "runs        100 after 10 to warm up, on 2 streams" in out and "throughput  1000.0 runs/s" in out
    assert "µs a run    min    median  mean   p90    p95    p99    max\n" in out
    assert "end to end  200.0  200.0" in out
    assert "plugin relu" in out and "75.0%" in out and "\x1b" not in out
    assert "--cuda-graph" not in out


def test_launches_that_decide_the_time_are_said():
    us = {"gpu": {"median": 20.0}, "enqueue": {"median": 19.0}}
    assert "--cuda-graph" in run_report._note({"us": us, "cuda_graph": False})
    assert run_report._note({"us": us, "cuda_graph": True}) == ""


def test_outputs_get_files_of_their_own():
    names = ["logits", "../up", "a/b", "a_b", "a_b-2", "a:b", "...", "é" * 300]
    found = run_report.file_names(names)
    assert found[:7] == ["logits.npy", "_up.npy", "a_b.npy", "a_b-2.npy", "a_b-2-2.npy", "a_b-3.npy", "_.npy"]
    assert len(set(found)) == len(names) and max(map(len, found)) < 255


# On a GPU


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("flags", [(), ("--cuda-graph",), ("--streams", "3", "--warm-up", "0")])
def test_an_engine_runs(capsys, tmp_path, flags):
    self_test.build(detect()).save(tmp_path / "relu.engine")
    x = npy(tmp_path / "x.npy", numpy.array([-1.5, 2.5], "float32"))
    given = ("--load", f"x:{x}", "--save", tmp_path / "out", "--iterations", "20", "--profile", "--json")
    code, out, err = run(capsys, "run", tmp_path / "relu.engine", *given, *flags)
    assert code == 0, err
    result = json.loads(out)
    assert numpy.load(tmp_path / "out/y.npy").tolist() == [0.0, 2.5]
    for row in result["us"].values():
        assert 0 < row["min"] <= row["median"] <= row["p90"] <= row["p95"] <= row["p99"] <= row["max"]
    assert result["runs_per_second"] > 0 and sum(each["share"] for each in result["layers"]) == pytest.approx(1)
