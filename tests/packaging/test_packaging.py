"""Which CUDA compiler a build picks, and which packages it asks for."""

import importlib.util
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from bridge.bench import baseline

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("build_backend", ROOT / "bridge" / "toolchain" / "build_backend.py")
backend = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(backend)


def fake_nvcc(folder: Path, version: str = "13.0") -> Path:
    """A program that answers `--version` as an nvcc of that version does."""
    folder.mkdir(parents=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.88'\n")
    nvcc.chmod(0o755)
    return nvcc


@pytest.fixture(autouse=True)
def usual_place(tmp_path, monkeypatch):
    """Stands for /usr/local/cuda/bin; empty until a test puts a compiler there."""
    place = tmp_path / "usual" / "bin"
    monkeypatch.setattr(backend, "USUAL_BIN", str(place))
    return place


def test_no_nvcc_asks_for_the_compiler_packages(tmp_path):
    environ = {"PATH": str(tmp_path)}
    assert backend.find_nvcc(environ) is None
    assert backend.requirements(environ) == [backend.TORCH, *backend.CUDA_PACKAGES]


def test_nvcc_on_path_needs_no_packages(tmp_path):
    nvcc = fake_nvcc(tmp_path / "bin")
    environ = {"PATH": str(nvcc.parent)}
    assert backend.find_nvcc(environ) == nvcc
    assert backend.requirements(environ) == [backend.TORCH]


def test_order_is_cudacxx_cuda_home_path_usual_place(tmp_path, usual_place):
    usual = fake_nvcc(usual_place)
    assert backend.find_nvcc({"PATH": str(tmp_path)}) == usual
    on_path = fake_nvcc(tmp_path / "bin")
    environ = {"PATH": str(on_path.parent)}
    assert backend.find_nvcc(environ) == on_path
    environ["CUDA_HOME"] = str(fake_nvcc(tmp_path / "home" / "bin").parent.parent)
    assert backend.find_nvcc(environ) == tmp_path / "home" / "bin" / "nvcc"
    environ["CUDACXX"] = str(fake_nvcc(tmp_path / "chosen"))
    assert backend.find_nvcc(environ) == tmp_path / "chosen" / "nvcc"


def test_cuda_home_without_nvcc_is_passed_over(tmp_path):
    nvcc = fake_nvcc(tmp_path / "bin")
    assert backend.find_nvcc({"CUDA_HOME": str(tmp_path / "none"), "PATH": str(nvcc.parent)}) == nvcc


@pytest.mark.parametrize(("version", "taken"), [("11.8", False), ("12.7", False), ("12.8", True), ("13.1", True)])
def test_old_nvcc_is_passed_over(tmp_path, capsys, version, taken):
    nvcc = fake_nvcc(tmp_path / "bin", version)
    environ = {"PATH": str(nvcc.parent)}
    assert backend.find_nvcc(environ) == (nvcc if taken else None)
    assert (f"{nvcc} is CUDA {version}, 12.8 or later is needed" in capsys.readouterr().err) != taken


def test_nvcc_that_does_not_run_is_passed_over(tmp_path):
    nvcc = fake_nvcc(tmp_path / "bin")
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    assert backend.find_nvcc({"PATH": str(nvcc.parent)}) is None


def test_bridge_cuda_pip_ignores_the_machines_nvcc(tmp_path):
    nvcc = fake_nvcc(tmp_path / "bin")
    environ = {"PATH": str(nvcc.parent), "CUDACXX": str(nvcc), "BRIDGE_CUDA": "pip"}
    assert backend.requirements(environ) == [backend.TORCH, *backend.CUDA_PACKAGES]


def test_pip_nvcc_is_used_where_there_is_no_other(tmp_path):
    installed = fake_nvcc(tmp_path / "site-packages" / "nvidia" / "cu13" / "bin")
    paths = [str(tmp_path), str(tmp_path / "site-packages")]
    assert backend.select_compiler({"PATH": str(tmp_path)}, paths) == installed
    own = fake_nvcc(tmp_path / "bin")
    assert backend.select_compiler({"PATH": str(own.parent)}, paths) == own
    assert backend.select_compiler({"PATH": str(own.parent), "BRIDGE_CUDA": "pip"}, paths) == installed


def test_no_compiler_at_all_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CUDA compiler: put nvcc .* pip install 'nvidia-cuda-nvcc"):
        backend.select_compiler({"PATH": str(tmp_path)}, [])


def test_wrong_settings_are_errors(tmp_path):
    with pytest.raises(ValueError, match=re.escape("BRIDGE_CUDA='conda': expected 'auto'")):
        backend.find_nvcc({"BRIDGE_CUDA": "conda"})
    with pytest.raises(ValueError, match="CUDACXX='/none/nvcc': no such program"):
        backend.find_nvcc({"CUDACXX": "/none/nvcc", "PATH": str(tmp_path)})


def test_without_the_torch_library_torch_is_not_required(tmp_path):
    nvcc = fake_nvcc(tmp_path / "bin")
    assert backend.requirements({"PATH": str(nvcc.parent), "BRIDGE_TORCH": "OFF"}) == []


def test_build_hooks_add_to_scikit_build_cores_requirements(tmp_path, monkeypatch):
    pytest.importorskip("scikit_build_core")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("BRIDGE_CUDA", "pip")
    for hook in (backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable):
        assert hook()[-len(backend.CUDA_PACKAGES) - 1 :] == [backend.TORCH, *backend.CUDA_PACKAGES]
    assert not set(backend.CUDA_PACKAGES) & set(backend.get_requires_for_build_sdist())


def test_build_hands_over_the_compiler_and_drops_empty_settings(tmp_path, monkeypatch):
    nvcc = fake_nvcc(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(nvcc.parent))
    monkeypatch.setenv("CUDACXX", "nvcc")
    monkeypatch.setenv("BRIDGE_TORCH", "")
    monkeypatch.setenv("BRIDGE_WERROR", "ON")
    monkeypatch.delenv("BRIDGE_CUDA", raising=False)
    seen = {}

    class ScikitBuild:
        @staticmethod
        def build_wheel(*args):
            seen.update(os.environ, args=args)
            return "a.whl"

    monkeypatch.setattr(backend, "_scikit_build", lambda: ScikitBuild)
    assert backend.build_wheel("out", {"a": "b"}) == "a.whl"
    assert seen["args"] == ("out", {"a": "b"}, None)
    assert (seen["CUDACXX"], seen["BRIDGE_WERROR"]) == (str(nvcc), "ON")
    assert "BRIDGE_TORCH" not in seen


@pytest.fixture
def of_others(tmp_path, monkeypatch):
    """The backend as it is installed, beside the package bridge; the project is in the current folder."""
    package = tmp_path / "site" / "bridge" / backend.CMAKE_PACKAGE
    package.mkdir(parents=True)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr(backend, "__file__", str(tmp_path / "site" / "bridge_build.py"))
    monkeypatch.setattr(backend, "present_architectures", lambda: ["86", "90"])
    for name in ("bridge_DIR", "BRIDGE_CUDA_ARCHITECTURES", "CUDACXX", "BRIDGE_CUDA"):
        monkeypatch.setenv(name, "")  # so that what a build sets is undone
        monkeypatch.delenv(name)
    return package


def test_a_package_of_others_is_told_where_bridge_is(of_others, tmp_path, monkeypatch):
    tools = fake_nvcc(tmp_path / "bin").parent
    (tools / "cmake").touch(0o755)
    monkeypatch.setenv("PATH", str(tools))
    Path("pyproject.toml").write_text("[project]\n")
    seen = {}

    class ScikitBuild:
        @staticmethod
        def build_editable(directory, settings, *args):
            seen.update(os.environ, settings=settings)
            return "a.whl"

    monkeypatch.setattr(backend, "_scikit_build", lambda: ScikitBuild)
    assert backend.build_editable("out", {"a": "b"}) == "a.whl"
    assert seen["settings"] == {"a": "b", "wheel.py-api": "py3"}
    assert (seen["bridge_DIR"], seen["BRIDGE_CUDA_ARCHITECTURES"]) == (str(of_others), "86;90")

    Path("pyproject.toml").write_text('[tool.scikit-build]\nwheel.py-api = "cp310"\n')
    monkeypatch.setenv("BRIDGE_CUDA_ARCHITECTURES", "89")
    backend.build_editable("out")
    assert seen["settings"] == {} and seen["BRIDGE_CUDA_ARCHITECTURES"] == "89"


def test_what_a_package_of_others_lacks_is_said_plainly(of_others, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None if name == "cmake" else find_spec(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"bridge: no CMake: put cmake 3\.24 or later on PATH, or run: pip install cmake"
    ):
        backend.build_wheel("out")
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: name == "cmake")
    with pytest.raises(
        SystemExit, match=r"bridge: no torch in .*: run pip install 'torch>=2\.10', or set BRIDGE_TORCH"
    ):
        backend.build_wheel("out")
    monkeypatch.setenv("BRIDGE_TORCH", "OFF")
    monkeypatch.setattr(backend, "find_pip_nvcc", lambda paths: None)
    with pytest.raises(SystemExit, match="bridge: no CUDA compiler: put nvcc"):
        backend.build_wheel("out")


def test_the_backend_is_installed_for_others():
    assert (
        'bridge/toolchain/build_backend.py" DESTINATION . RENAME bridge_build.py'
        in (ROOT / "csrc/CMakeLists.txt").read_text()
    )


def test_a_wheel_has_the_recorded_baselines(tmp_path, monkeypatch):
    """Without what is compiled, which takes minutes."""
    pytest.importorskip("scikit_build_core")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "bridge", tree / "bridge", ignore=shutil.ignore_patterns("__pycache__", "lib"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    folder = tree / "bridge" / "bench" / baseline.FOLDER.name
    folder.mkdir(exist_ok=True)
    (folder / "nvidia_a_gpu.json").write_text("{}")
    monkeypatch.chdir(tree)
    wheel = backend._scikit_build().build_wheel(str(tmp_path), {"wheel.cmake": "false"})
    names = zipfile.ZipFile(tmp_path / wheel).namelist()
    assert "bridge/bench/baselines/nvidia_a_gpu.json" in names and "bridge/bench/baseline.py" in names
    assert "bridge/cli/templates/op/csrc/myop.cuh" in names and "bridge/cli/templates/op/gitignore" in names
    assert not [name for name in names if name.startswith(("tests/", "csrc/"))]
