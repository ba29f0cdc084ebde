"""Engines run with plugins of libraries that were shipped, or ejected and edited, and on tuned ones."""

import os
import subprocess
import sys

import pytest
import torch
import triton_ops
from torch import nn
from torch.export import Dim

import bridge
from bridge.core.op import OPS
from bridge.generate import shipping
from bridge.generate.native.eject import eject
from bridge.toolchain import tools

pytestmark = pytest.mark.gpu(engines=True)

RUN = """
import sys
import torch, bridge
x = torch.linspace(-1, 1, 12 * 64).view(12, 64).cuda()
print(bridge.load(sys.argv[1])(x).sum().item())
"""


class Axpy(nn.Module):
    def forward(self, x):
        return triton_ops.axpy(x, None, 3.0)


class Norm(nn.Module):
    def forward(self, x, weight):
        return triton_ops.rms_norm(x, weight, 1e-5)


def rows(most=4096):
    return {0: Dim("rows", min=1, max=most)}


@pytest.fixture
def engine(tmp_path):
    """The file of an engine, the folder of its library, and what it computes."""
    x = torch.linspace(-1, 1, 12 * 64).view(12, 64).cuda()
    compiled = bridge.compile(Axpy().eval(), (x,), dynamic_shapes=(rows(),), cache=False)
    compiled.save(tmp_path / "net.engine")
    (name,) = compiled.plugin_counts()
    return tmp_path / "net.engine", OPS[name], Axpy()(x).sum().item()


def run_elsewhere(engine, tmp_path, **environment):
    """Loads and runs it in a new process that has no cache, no compiler and none of the model's code."""
    environment = {"BRIDGE_CACHE_DIR": str(tmp_path / "empty"), "CXX": "/nonexistent/g++"} | environment
    command = [sys.executable, "-c", RUN, str(engine)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=200)


def test_an_engine_runs_with_a_shipped_library_alone(engine, tmp_path):
    file, op, expected = engine
    shipping.ship([op.instance], [f"sm{''.join(map(str, torch.cuda.get_device_capability()))}"], tmp_path / "shipped")
    done = run_elsewhere(file, tmp_path, BRIDGE_GENERATED_PATH=str(tmp_path / "shipped"))
    assert float(done.stdout) == pytest.approx(expected, abs=1e-3), done.stderr
    without = run_elsewhere(file, tmp_path)
    assert without.returncode and "BRIDGE_GENERATED_PATH" in without.stderr


def test_an_engine_runs_with_what_was_edited_in_an_ejected_library(engine, tmp_path):
    file, op, _ = engine
    eject(op.library.directories()[0], tmp_path / "mine")
    (source,) = (tmp_path / "mine" / "csrc").glob("*.cpp")
    text = source.read_text()
    assert text.count("static_cast<float>(3.0)") == 1
    source.write_text(text.replace("static_cast<float>(3.0)", "static_cast<float>(7.0)"))
    try:
        settings = [f"-Dbridge_DIR={tools.cmake_package()}", f"-DCMAKE_CUDA_COMPILER={tools.nvcc()}"]
        cmake = tools.program("cmake")
    except Exception as error:
        pytest.skip(f"needs CMake and nvcc: {error}")
    folders = ["-S", tmp_path / "mine", "-B", tmp_path / "build"]
    subprocess.run([cmake, *folders, *settings, "-DCMAKE_CUDA_ARCHITECTURES=90"], check=True)
    subprocess.run([cmake, "--build", tmp_path / "build", "-j4"], check=True)
    done = run_elsewhere(file, tmp_path, BRIDGE_GENERATED_PATH=str(tmp_path / "build" / "lib"))
    x = torch.linspace(-1, 1, 12 * 64).view(12, 64).cuda()
    expected = triton_ops.axpy(x, None, 7.0).sum().item()
    assert float(done.stdout) == pytest.approx(expected, abs=1e-3), done.stderr


@pytest.mark.parametrize("width", [1000, 16384])
def test_configurations_are_measured_and_the_fastest_runs(width, tmp_path, monkeypatch):
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "cache"))
    x, weight = torch.randn(2048, width).cuda().half(), torch.rand(width).cuda().half()
    shapes = (rows(), None)
    tuning = bridge.tune(Norm().eval(), (x, weight), dynamic_shapes=shapes)
    (item,) = tuning.configurations
    print(tuning)
    assert item.measured_count == item.count == 2 and 1 < item.us <= item.first_us < 1e4
    assert item.kind.startswith(f"generate_test::rms_norm(float16[2048, {1 << (width - 1).bit_length()}]")
    compiled = bridge.compile(Norm().eval(), (x, weight), dynamic_shapes=shapes)
    kernels = {row["function"]: row for row in compiled.file.metadata["generated"][0]["kernels"]}
    (chosen,) = kernels["_scale_rows"]["configurations"]
    assert sorted(chosen.split(", ")) == sorted(item.text.split(", "))
    expected = triton_ops.rms_norm_reference(x, weight, 1e-5)
    torch.testing.assert_close(compiled(x, weight), expected, rtol=2e-3, atol=2e-3)
