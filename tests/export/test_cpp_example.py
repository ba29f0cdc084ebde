"""examples/cpp builds with an SDK's headers, registers the plugins of a folder, and gives what Python gives.

It needs a TensorRT or TensorRT-RTX SDK in TENSORRT_ROOT: no Python package has the headers.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.export import Dim

import bridge
from bridge.engine.compiled import CompiledModule

SOURCES = Path(__file__).parents[2] / "examples" / "cpp"
SDK = os.environ.get("TENSORRT_ROOT")

pytestmark = pytest.mark.skipif(not SDK, reason="needs a TensorRT SDK: TENSORRT_ROOT")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    build = tmp_path_factory.mktemp("cpp")
    for step in (["-S", SOURCES, "-B", build, f"-DTENSORRT_ROOT={SDK}"], ["--build", build]):
        subprocess.run(["cmake", *step], check=True)
    return build / "run_folder"


def run(program, *arguments, code=0):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def folder(file, tmp_path):
    CompiledModule(file).export(tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_plugins_are_registered_before_the_gpu_is_missed(program, folder, tmp_path):
    out, err = run(program, folder, tmp_path / "results", code=1)
    assert out.endswith(" plugins are registered\n")
    assert err.startswith("run_folder: there is no GPU to run on: ")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: run_folder FOLDER RESULTS NAME:EXTENTS=FILE..."),
        (["gone", "results"], "cannot read gone/model.plan"),
        (["net", "results", "x"], "x is not NAME:EXTENTS=FILE"),
        (["net", "results", "x:2xa=x.bin"], "x:2xa=x.bin has extents that are none"),
        (["net", "results", "x:2=gone.bin"], "cannot read gone.bin"),
    ],
)
def test_wrong_arguments_are_told(program, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(program, *arguments, code=1)[1] == f"run_folder: {words}\n"


class Scaled(torch.nn.Module):
    def forward(self, x, n):
        y = bridge.relu(x * n, 0.1, 6.0)
        return {"scaled": y, "sums": (y.sum(-1), n + 1)}


@pytest.mark.gpu(engines=True)
def test_outputs_are_those_of_python(program, tmp_path, device):
    x, n = torch.randn(3, 5, device=device), torch.tensor(2, device=device)
    batch = Dim("batch", min=1, max=8)
    compiled = bridge.compile(Scaled().eval(), (x, n), dynamic_shapes={"x": {0: batch}, "n": None}, cache=False)
    compiled.export(tmp_path / "net")
    x.cpu().numpy().tofile(tmp_path / "x.bin")
    n.cpu().numpy().tofile(tmp_path / "n.bin")
    inputs = [f"x:3x5={tmp_path / 'x.bin'}", f"n:={tmp_path / 'n.bin'}"]
    out, _ = run(program, tmp_path / "net", tmp_path / "results", *inputs)
    assert {"scaled 3x5", "sums_0 3", "sums_1 scalar"} <= set(out.splitlines())
    expected = compiled(x, n)
    for name, tensor in [("scaled", expected["scaled"]), *zip(["sums_0", "sums_1"], expected["sums"], strict=True)]:
        dtype = np.float32 if tensor.is_floating_point() else np.int64
        found = torch.from_numpy(np.fromfile(tmp_path / "results" / f"{name}.bin", dtype)).reshape(tensor.shape)
        torch.testing.assert_close(found, tensor.cpu(), rtol=0, atol=0)
    assert (
        "x cannot be 9x5" in run(program, tmp_path / "net", tmp_path / "more", "x:9x5=/dev/null", inputs[1], code=1)[1]
    )
    assert "the input n is missing" in run(program, tmp_path / "net", tmp_path / "more", inputs[0], code=1)[1]
