"""An ejected library is a project that builds, and takes edits."""

import subprocess

import hand_written_ops as ops
import pytest
import torch
from triton_ops import axpy

import bridge
from bridge.core.device_code import device_codes
from bridge.core.op import OPS
from bridge.core.plugin_file import PluginFile
from bridge.doors.module_calls import ListedCall, instances_of
from bridge.errors import LibraryError
from bridge.generate import folders
from bridge.generate.build import build, plugin_name
from bridge.generate.native.eject import eject
from bridge.toolchain import tools


def build_with_cmake(sources, folder):
    """As a package's build does, but with few compilations: each of CMake's targets is one file."""
    settings = {
        "bridge_DIR": tools.cmake_package(),
        "CMAKE_CUDA_ARCHITECTURES": 86,
        "CMAKE_CUDA_COMPILER": tools.nvcc(),
        "CMAKE_MAKE_PROGRAM": tools.program("ninja"),
        "CMAKE_UNITY_BUILD": "ON",
        "CMAKE_UNITY_BUILD_BATCH_SIZE": 0,
    }
    defined = [f"-D{name}={value}" for name, value in settings.items()]
    cmake = tools.program("cmake")
    subprocess.run([cmake, "-S", sources, "-B", folder, "-G", "Ninja", *defined], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture
def folder():
    return build([ops.counted()], ["sm86"])


def test_an_ejected_library_builds_with_what_is_edited(folder, tmp_path):
    files = eject(folder, tmp_path / "mine")
    name = plugin_name(ops.counted())
    names = [path.relative_to(tmp_path / "mine").as_posix() for path in files]
    assert names[:3] == ["CMakeLists.txt", "README.md", f"csrc/{name}.cpp"]
    source = tmp_path / "mine" / "csrc" / f"{name}.cpp"
    source.write_text(source.read_text().replace(f'name = "{name}"', 'name = "counted"'))
    built = build_with_cmake(tmp_path / "mine", tmp_path / "build") / "lib" / "libacme_plugins.so"
    plugins = PluginFile(built)
    assert plugins.schemas == {"counted": "counted(Tensor index) -> (Tensor, Tensor)"}
    assert plugins.infer_shapes("counted", [(3, 5)], {}, 2) == [(8,), (3, 5)]
    assert "sm_86" in map(str, device_codes(built))


def test_models_take_an_ejected_library_with_what_is_edited(tmp_path, monkeypatch):
    x = torch.ones(8, 64)
    instances = instances_of([ListedCall("axpy", axpy, (x, None, 2.0))])
    (name,) = map(plugin_name, instances)
    eject(build(instances, ["sm86"]), tmp_path / "mine")
    source = tmp_path / "mine" / "csrc" / f"{name}.cpp"
    source.write_text(source.read_text().replace("static_cast<float>(2.0)", "static_cast<float>(5.0)"))
    built = build_with_cmake(tmp_path / "mine", tmp_path / "build") / "lib"
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", str(built))
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "empty"))

    class Net(torch.nn.Module):
        def forward(self, x):
            return axpy(x, None, 2.0)

    compiled = bridge.compile(Net().eval(), (x,), target="sm86", cache=False)
    assert OPS[f"generate_test::{name}"].library.directories() == [built]
    assert name in compiled.explain() and not list((tmp_path / "empty").glob("generated/generate_test/*"))
    (built / "libgenerate_test_plugins.so").unlink()
    assert folders.holding(f"generate_test::{name}", "sm86", only_shipped=True) is None


def test_only_a_generated_library_is_ejected(tmp_path):
    with pytest.raises(LibraryError, match="is no generated library"):
        eject(tmp_path, tmp_path / "mine")


def test_nothing_is_overwritten(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LibraryError, match="holds something already"):
        eject(folder, tmp_path)
