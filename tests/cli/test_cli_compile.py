"""bridge compile: engines of model files, and files, models and interruptions that give none."""

import os
import signal
import sys
import time

import pytest
from command_runs import run, start

import bridge
from bridge.engine_file.contents import EngineFile
from bridge.errors import BuildError

SM86 = ("--target", "sm86")


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


def test_tuning_needs_a_gpu(capsys, model, builder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = run(capsys, "compile", model, "--tune", "-q", *SM86)
    assert (code, out) == (7, "") and "no CUDA GPU here to measure on" in err


def test_compile_generates_what_tensorrt_lacks(capsys, builder, tmp_path):
    path = tmp_path / "gamma.py"
    path.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n    def forward(self, x):\n        return torch.lgamma(x) + 1\n"
        "def bridge_model(argv):\n    return Net().eval(), (torch.ones(2, 8),)\n"
    )
    output = tmp_path / "out.engine"
    flags = (path, "--target", "sm86", "-q", "-o", output)
    assert "lgamma" in run(capsys, "compile", *flags)[2] and not output.exists()
    code, out, err = run(capsys, "compile", *flags, "--generate")
    assert (code, err) == (0, "") and "1 inductor::lgamma_" in out


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
def test_functions_that_return_no_model(capsys, model, builder, function, words):
    code, out, err = run(capsys, "compile", f"{model}:{function}", "-q", *SM86, "--weights", "w.pt", "--", "-x")
    assert (code, out) == (1, "")
    assert words in err


def test_a_function_that_returns_the_model_alone(capsys, model, builder, monkeypatch):
    given = {}

    def record(*args, **settings):
        given["args"] = args
        raise BuildError("enough")

    monkeypatch.setattr(bridge, "compile", record)
    run(capsys, "compile", f"{model}:bare", "-q", *SM86)
    assert given["args"][1:] == ((), {})


def test_flags_that_the_model_does_not_know(capsys, model, builder):
    code, _, err = run(capsys, "compile", model, "-q", *SM86, "--", "--nonsense")
    assert code == 2
    assert "net: error: unrecognized arguments: --nonsense" in err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.py", "import nothing_of_this_name", "does not run: ModuleNotFoundError: No module named 'nothing_of_this"),
        ("a.py", "x = 1\n\n1 / 0\n", "does not run: ZeroDivisionError: division by zero (line 3)"),
        ("a.py", "def f(:\n", "does not run: SyntaxError"),
        ("a.txt", "", "is no Python file; its name must end in .py"),
    ],
)
def test_files_that_hold_no_model(capsys, tmp_path, builder, name, content, words):
    (tmp_path / name).write_text(content)
    code, out, err = run(capsys, "compile", tmp_path / name, "-q", *SM86)
    assert (code, out) == (1, "")
    assert words in err


def test_a_folder_for_the_output_that_is_not_there(capsys, model, tmp_path):
    code, _, err = run(capsys, "compile", model, "-o", tmp_path / "none" / "a.engine")
    assert code == 2
    assert "there is no folder" in err


def test_interrupted(capsys, model, builder):
    assert run(capsys, "compile", f"{model}:interrupts", "-q", *SM86) == (130, "", "bridge: interrupted\n")


def test_interrupted_by_a_signal(tmp_path, builder):
    path = tmp_path / "slow.py"
    path.write_text("import time\nopen('started', 'w').close()\ntime.sleep(60)\n")
    process = start("compile", path, *SM86, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "bridge: interrupted"
    assert "Traceback" not in err
