"""The command line: what it prints, where, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import bridge
from bridge import cli
from bridge.base.text import columns, size
from bridge.cli import doctor
from bridge.core import libraries
from bridge.core.library import LIBRARIES
from bridge.engine.explain import as_json_values, explain
from bridge.engine_file.contents import EngineFile
from bridge.errors import BuildError, EngineError, ExportError, FlavourError, LibraryError, UnsupportedOpError
from bridge.tensorrt.install import flavour as flavours

MODEL = """
import argparse
import torch
import bridge
from neighbour import SLOPE

class Net(torch.nn.Module):
    def forward(self, x):
        return bridge.relu(x, SLOPE, 6.0)

def bridge_model(argv):
    parser = argparse.ArgumentParser("net")
    parser.add_argument("--weights")
    parser.add_argument("--max-batch", type=int, default=8)
    options = parser.parse_args(argv)
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    return Net().eval(), (torch.ones(2, 4),), {}, {"x": {0: batch}}

def bare(argv):
    return Net().eval()

def nothing(argv):
    return 1, 2, 3, 4, 5

def bad_args(argv):
    return Net().eval(), torch.ones(2)

def fails(argv):
    raise RuntimeError(f"no luck with {argv}")

def interrupts(argv):
    raise KeyboardInterrupt

constant = 5

if __name__ == "__main__":
    raise AssertionError("a model file is not run as a script")
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "neighbour.py").write_text("SLOPE = 0.25\n")
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def saved(tmp_path, make_engine_file):
    path = tmp_path / "a.engine"
    make_engine_file().save(path)
    return path


@pytest.fixture
def builder():
    """Skips a test where no engine for sm86 can be built."""
    try:
        flavour = flavours.detect()
        libraries.plugin_library()
    except (FlavourError, LibraryError) as error:
        pytest.skip(str(error))
    if not flavour.traits.builds_without_gpu:
        pytest.skip(f"{flavour.name} does not build for other GPUs")


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def start(*arguments, **settings):
    command = [sys.executable, "-m", "bridge.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


# The command itself


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"bridge {bridge.__version__}\n", "")


def test_help_lists_commands_and_exit_codes(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(word in out for word in ("doctor", "ops", "compile", "explain", "130  interrupted"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["explain"], "the following arguments are required: FILE.engine"),
        (["explain", "a", "b"], "unrecognized arguments: b"),
        (["compile", "a.py", "b.py"], "unrecognized arguments: b.py"),
        (["compile", "a.py", "--optimization-level", "9"], "argument --optimization-level: invalid choice: 9"),
        (["compile", "a.py", "--lowering", "fast"], "lowering is 'fast'; expected one of auto, plugin, native"),
        (["compile", "a.py", "--lowering", "rlu=native"], "lowering names the op 'rlu', which does not exist"),
        (["compile", "a.py", "--passes", "rope,rop"], "passes names 'rop', which does not exist"),
        (["compile", "a.py", "--workspace-size", "-1"], "'-1' is no positive number of bytes"),
        (["ops", "--", "x"], "ops takes nothing after --: x"),
    ],
)
def test_usage_errors(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_a_closed_pipe_is_no_error(saved):
    process = start("explain", saved, "--layers")
    process.stdout.close()
    assert process.wait(60) in (0, 141)  # 0 where all was written before the pipe closed
    assert process.stderr.read() == ""


FLOOD = """
import sys
from bridge import cli

def flood(options):
    print("x" * 10_000_000)
    return 0

cli._COMMANDS["ops"] = (cli._add_ops, flood, "")
sys.exit(cli.main(["ops"]))
"""


def test_a_pipe_that_closes_while_a_command_writes():
    process = subprocess.Popen([sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(5) == "xxxxx"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


def test_a_bug_is_reported_in_a_line_and_traced_with_debug(capsys, monkeypatch):
    def fail(options):
        raise ZeroDivisionError("one over none")

    monkeypatch.setitem(cli._COMMANDS, "ops", (cli._add_ops, fail, ""))
    assert run(capsys, "ops") == (
        1,
        "",
        "bridge: ZeroDivisionError: one over none\nThis should not happen; --debug shows where.\n",
    )
    for arguments in (["--debug", "ops"], ["ops", "--debug"]):
        code, _, err = run(capsys, *arguments)
        assert code == 1
        assert "Traceback" in err
        assert 'raise ZeroDivisionError("one over none")' in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnsupportedOpError("aten.fft"), 3),
        (BuildError("refused"), 4),
        (ExportError("no"), 6),
        (FlavourError("none"), 7),
        (LibraryError("none"), 7),
        (EngineError("other"), 7),
        (bridge.BridgeError("some"), 1),
    ],
)
def test_exit_codes(capsys, monkeypatch, model, error, expected):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(bridge, "compile", fail)
    assert run(capsys, "compile", model, "-q") == (expected, "", f"bridge: {error}\n")


# doctor


def test_doctor(capsys):
    code, out, err = run(capsys, "doctor")
    assert err == ""
    assert all(word in out for word in ("versions", "GPUs", "libraries", "what works", torch.__version__))
    code_of_json, text, _ = run(capsys, "doctor", "--json")
    report = json.loads(text)
    assert code == code_of_json == (0 if report["usable"] else 1)
    assert [ability["name"] for ability in report["abilities"]] == list(doctor._ABILITIES)
    on_cpu = report["abilities"][0]
    assert on_cpu["works"]
    assert on_cpu["reason"] == ", ".join(sorted(bridge.OPS))


def test_doctor_without_libraries(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (1, "")
    assert f"not in {tmp_path}" in out


def test_doctor_without_tensorrt(capsys, monkeypatch):
    monkeypatch.setattr(flavours, "installed", lambda: [])
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "no TensorRT is installed; install tensorrt" in out


def test_doctor_where_everything_is_broken(capsys, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise RuntimeError("broken\nin two lines")

    (tmp_path / "libbridge_plugins.so").write_text("no library")
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    for owner, name in ((flavours, "installed"), (flavours, "detect"), (torch.cuda, "is_available")):
        monkeypatch.setattr(owner, name, broken)
    monkeypatch.setattr(doctor.importlib.metadata, "version", broken)
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (1, "")
    assert "RuntimeError: broken in two lines" in out
    assert "does not load" in out


# ops


def test_ops(capsys):
    code, out, err = run(capsys, "ops")
    assert (code, err) == (0, "")
    for name, op in bridge.OPS.items():
        assert f"{name}: " in out
        assert op.schema_text() in out


def test_ops_as_json(capsys):
    rows = json.loads(run(capsys, "ops", "--json")[1])
    assert [row["name"] for row in rows] == sorted(bridge.OPS)
    assert all(row["dtypes"] == ["float32", "float16", "bfloat16"] for row in rows)
    built = LIBRARIES["bridge"].find("plugins") is not None
    assert all(row["lowerings"][:1] == (["plugin"] if built else []) for row in rows)


def test_one_op_with_its_documentation(capsys):
    code, out, _ = run(capsys, "ops", "rope")
    assert code == 0
    assert "rotary_dim: R; 0 means D." in out
    known = ", ".join(sorted(bridge.OPS))
    assert run(capsys, "ops", "none") == (1, "", f"bridge: there is no op none; the ops are {known}\n")


# compile


def test_compile(capsys, model, builder, tmp_path):
    output = tmp_path / "out.engine"
    code, out, err = run(capsys, "compile", model, "--target", "sm86", "-o", output, "--", "--max-batch", "5")
    assert code == 0, err
    assert "[bridge] loading" in err
    assert "[bridge] compiling Net for sm86" in err
    assert "engines        1, for sm86" in out
    assert "plugin layers  1 relu" in out
    file = EngineFile.load(output)
    assert file.inputs[0].max == (5, 4)
    text = run(capsys, "explain", output)[1]
    assert "relu(x)" in text
    assert "negative_slope=0.25, max_value=6.0" in text


def test_compile_with_a_lowering(capsys, model, builder, tmp_path):
    output = tmp_path / "out.engine"
    flags = ("--target", "sm86", "-q", "-o", output, "--lowering")
    code, out, err = run(capsys, "compile", model, *flags, "relu=native,rope=plugin")
    assert (code, err) == (0, "") and "plugin layers  none" in out
    assert "1 relu  native  requested" in run(capsys, "explain", output)[1]


def test_tuning_needs_a_gpu(capsys, model, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = run(capsys, "compile", model, "--tune", "-q")
    assert (code, out) == (7, "") and "no CUDA GPU here to measure on" in err


def test_compile_quietly_into_the_current_folder(capsys, model, builder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "compile", model, "--target", "sm86", "--quiet")
    assert (code, err) == (0, "")
    assert EngineFile.load("net.engine").target == "sm86"


def test_compile_for_a_target_that_does_not_exist(capsys, model, builder, tmp_path):
    code, out, err = run(capsys, "compile", model, "--target", "sm33", "-q", "-o", tmp_path / "a")
    assert (code, out) == (2, "")
    assert "does not build for sm33" in err
    assert not (tmp_path / "a").exists()


def test_compile_with_an_operator_that_has_no_converter(capsys, builder, tmp_path):
    path = tmp_path / "fft.py"
    path.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.linalg.det(x)\n"
        "def bridge_model(argv):\n"
        "    return Net().eval(), (torch.ones(3, 3),)\n"
    )
    code, out, err = run(capsys, "compile", path, "--target", "sm86", "-q")
    assert (code, out) == (3, "")
    assert "det" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("none", "defines no function none(argv)"),
        ("constant", "defines no function constant(argv)"),
        ("nothing", "nothing(argv) returned 5 values; expected (model, args, kwargs, dynamic_shapes)"),
        ("bad_args", "bad_args(argv) returned args of type Tensor"),
        (
            "fails",
            "fails(['--weights', 'w.pt', '-x']) failed: RuntimeError: no luck with ['--weights', 'w.pt', '-x'] (line",
        ),
    ],
)
def test_functions_that_return_no_model(capsys, model, function, words):
    code, out, err = run(capsys, "compile", f"{model}:{function}", "-q", "--weights", "w.pt", "--", "-x")
    assert (code, out) == (1, "")
    assert words in err


def test_a_function_that_returns_the_model_alone(capsys, model, monkeypatch):
    given = {}

    def record(*args, **settings):
        given["args"] = args
        raise BuildError("enough")

    monkeypatch.setattr(bridge, "compile", record)
    run(capsys, "compile", f"{model}:bare", "-q")
    assert given["args"][1:] == ((), {})


def test_flags_that_the_model_does_not_know(capsys, model):
    code, _, err = run(capsys, "compile", model, "-q", "--", "--nonsense")
    assert code == 2
    assert "net: error: unrecognized arguments: --nonsense" in err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.py", None, "there is no model file"),
        ("a.py", "import nothing_of_this_name", "does not run: ModuleNotFoundError: No module named 'nothing_of_this"),
        ("a.py", "x = 1\n\n1 / 0\n", "does not run: ZeroDivisionError: division by zero (line 3)"),
        ("a.py", "def f(:\n", "does not run: SyntaxError"),
        ("a.txt", "", "is no Python file; its name must end in .py"),
    ],
)
def test_files_that_hold_no_model(capsys, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    code, out, err = run(capsys, "compile", tmp_path / name, "-q")
    assert (code, out) == (1, "")
    assert words in err


def test_a_folder_for_the_output_that_is_not_there(capsys, model, tmp_path):
    code, _, err = run(capsys, "compile", model, "-o", tmp_path / "none" / "a.engine")
    assert code == 2
    assert "there is no folder" in err


def test_interrupted(capsys, model):
    assert run(capsys, "compile", f"{model}:interrupts", "-q") == (130, "", "bridge: interrupted\n")


def test_interrupted_by_a_signal(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import time\nopen('started', 'w').close()\ntime.sleep(60)\n")
    process = start("compile", path, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "bridge: interrupted"
    assert "Traceback" not in err


# explain


def test_explain(capsys, saved):
    code, out, err = run(capsys, "explain", saved)
    assert (code, err) == (0, "")
    for line in (
        "model    Größe, 7 parameters",
        "engine   1.0 kB for sm86, tensorrt_rtx 1.7.1.116, built in 1.2 s",
        "  x        float16  [1, 3, 0]  [4, 3, 8]  [16, 3, 64]",
        "  y         bfloat16  [?, 3, ?]",
        "plugin layers: 1 relu",
        "  relu_1  relu(x)  negative_slope=0.1, max_value=inf  float16 [?, 3, ?]",
    ):
        assert line in out.splitlines()
    assert "cast_2" not in out
    assert "  CAST         bfloat16 [?, 3, ?]  cast_2" in run(capsys, "explain", saved, "--layers")[1].splitlines()


def test_explain_as_json(capsys, saved, make_engine_file):
    shown = json.loads(run(capsys, "explain", saved, "--json")[1], parse_constant=pytest.fail)
    assert shown == as_json_values(make_engine_file()) | {
        "inputs": [
            {"name": "x", "dtype": "float16", "min": [1, 3, 0], "opt": [4, 3, 8], "max": [16, 3, 64]},
            {"name": "n", "dtype": "int64", "min": [], "opt": [], "max": []},
        ]
    }
    assert shown["plugin_counts"] == {"relu": 1}
    assert shown["layers"][0]["attributes"]["max_value"] == "inf"


def test_explain_knows_less_of_an_engine_that_says_less(make_engine_file):
    bare = make_engine_file(metadata={}, layers=[{"name": "a\x1b[2Jb", "type": "CAST"}], plugins={})
    text = explain(bare, every_layer=True)
    assert "model" not in text
    assert "plugin layers: 0" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_explain_of_what_is_no_engine(capsys, tmp_path, content):
    path = tmp_path / "a.engine"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run(capsys, "explain", path)
    assert (code, out) == (5, "")
    assert err.startswith(f"bridge: {path}: ")


def test_explain_of_a_damaged_engine(capsys, saved):
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    saved.write_bytes(content)
    code, _, err = run(capsys, "explain", saved)
    assert code == 5
    assert "damaged: its checksum is" in err


# Tables


def test_columns():
    assert columns([("a", "bb", "c"), ("aaa", "b")]) == "  a    bb  c\n  aaa  b"
    assert columns([]) == ""
    assert columns([("a\nb", 1)], indent=0) == "'a\\nb'  1"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (2_340_000_000, "2.3 GB")],
)
def test_size(count, text):
    assert size(count) == text
