"""bridge.load_ops: builds in place, again where something changed, and says what is wrong."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from own_ops import forgotten

import bridge
from bridge.core.library import LIBRARIES
from bridge.errors import LibraryError
from bridge.toolchain import build_backend, cmake_build, tools

SOURCE = """
#include <bridge/core/op.h>

#include "factor.h"

struct Turn final : bridge::Op {
  static constexpr char const* name = "turn";
  static std::vector<bridge::Param> inputs() { return {{"x", bridge::kFloating}}; }
  static std::vector<bridge::Param> outputs() { return {{"y", bridge::kLikeFirst}}; }
  void shapes(bridge::Shape const* in, bridge::Shape* out) const override { out[0] = {in[0][0] * FACTOR}; }
  cudaError_t run(bridge::Tensor const*, bridge::Tensor const*, void*, cudaStream_t) const override {
    return cudaErrorNotSupported;
  }
};

bridge::Register<Turn> const registered;
"""


def write(folder, factor=1, source=SOURCE):
    for name, text in (("turn.cu", source), ("factor.h", f"#define FACTOR {factor}\n")):
        if not (folder / name).exists() or (folder / name).read_text() != text:  # else it would be built again
            (folder / name).write_text(text)


def load(folder, **settings):
    settings.setdefault("targets", ["sm86"])
    return bridge.load_ops(folder, "turned", **settings)


def factor(library):
    return library.plugins().infer_shapes("turn", [(1,)], {}, 1)[0][0]


@pytest.fixture
def alone(monkeypatch):
    """The library of plugins alone, which a process may load again."""
    monkeypatch.setenv("BRIDGE_TORCH", "OFF")
    with forgotten():
        yield


@pytest.fixture(scope="module")
def turn(sdk, tmp_path_factory):
    """A folder of sources that was built once, and its cache."""
    folder, cache = tmp_path_factory.mktemp("turn"), tmp_path_factory.mktemp("cache")
    write(folder, 2)
    with pytest.MonkeyPatch.context() as patch, forgotten():
        patch.setenv("BRIDGE_TORCH", "OFF")
        patch.setenv("BRIDGE_CACHE_DIR", str(cache))
        load(folder)
    return folder, cache


@pytest.fixture
def turned(turn, alone, monkeypatch):
    folder, cache = turn
    write(folder, 2)
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(cache))
    return folder


def test_what_did_not_change_is_not_built_again(turned, monkeypatch):
    library = load(turned)
    before = library.plugin_library()
    started = time.monotonic()
    assert load(turned).plugin_library() == before and factor(library) == 2
    assert time.monotonic() - started < 5  # CMake alone takes longer on a busy machine


def test_a_header_that_changed_is_built_again(turned):
    before = load(turned).plugin_library()
    write(turned, 3)
    library = load(turned)
    assert factor(library) == 3 and library.plugin_library() != before
    assert before.is_file()  # a process may use it still


def test_a_source_that_is_new_joins_the_build(turned):
    load(turned)
    other = turned / "other.cu"
    try:
        other.write_text(SOURCE.replace("Turn", "Other").replace('"turn"', '"other"'))
        assert sorted(load(turned).plugins().schemas) == ["other", "turn"]
    finally:
        other.unlink()


def test_errors_of_the_compiler_are_readable(turned):
    load(turned)
    write(turned, 2, SOURCE.replace("in[0][0] * FACTOR", "in[0][0] * FACTORY"))
    with pytest.raises(LibraryError) as error:
        load(turned)
    first, message, last = str(error.value).splitlines()
    assert first == f"turned in {turned} does not build:"
    assert message.startswith(f"{turned}/turn.cu:10: ") and 'identifier "FACTORY" is undefined' in message
    assert "The whole output is in " in last


CHILD = """
import os, sys, bridge
print(bridge.load_ops(sys.argv[1], "turned", targets=["sm86"]).plugin_library())
"""


def test_two_processes_build_together(turned):
    write(turned, 4)
    command = [sys.executable, "-c", CHILD, turned]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], answers
    assert answers[0][0] == answers[1][0] != ""


def test_ops_may_be_defined_before_and_after(turned):
    library = load(turned)
    assert library.module == "" and library.ops == {}

    @bridge.op("turned::turn")
    def turn(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    assert LIBRARIES["turned"] is library and library.module == __name__ and not library.problems
    assert load(turned) is library

    write(turned, 2, SOURCE.replace('"turn"', '"tern"'))
    with pytest.raises(
        LibraryError, match=r'the name "tern", and no op is called turned::tern; the op turned::turn has'
    ):
        load(turned)
    attribute = 'int64_t by = 1; std::vector<bridge::Attribute> attributes() override { return {{"by", &by}}; }'
    write(turned, 2, SOURCE.replace("  void shapes", f"  {attribute}\n  void shapes"))
    with pytest.raises(
        LibraryError, match=r"disagree.\n  Python: turn\(Tensor x\).*\n  native: turn\(Tensor x, int by=1\)"
    ):
        load(turned)


def test_libraries_that_are_built_already_are_taken(turned, tmp_path):
    shutil.copy(load(turned).plugin_library(), tmp_path)
    assert bridge.load_ops(tmp_path).plugin_library() == tmp_path / "libturned_plugins.so"
    with pytest.raises(LibraryError, match=r"holds the built library of turned, not of turner"):
        bridge.load_ops(tmp_path, "turner")


def test_a_process_holds_one_version(turned, tmp_path):
    library = load(turned)
    library._kernels_are_loaded = True
    shutil.copy(library.plugin_library(), tmp_path)
    with pytest.raises(LibraryError, match="a process holds one version of a library: start another"):
        bridge.load_ops(tmp_path)


# Without compilers


@pytest.fixture
def tools_of_paper(tmp_path, monkeypatch):
    """Stand-ins for CMake and Ninja that do what these do to a build folder; returns what was called."""
    called = []

    def run(command, folder, sources, settings):
        build, name = folder / "build", "cmake" if "-S" in command else "ninja"
        called.append((name, build.exists()))
        (build / "lib").mkdir(parents=True, exist_ok=True)
        (build / "lib" / "libturned_plugins.so").write_text(sources.path.read_text())

    monkeypatch.setattr(cmake_build, "_run", run)
    monkeypatch.setattr(tools, "program", lambda name: name)
    settings = cmake_build.Settings("86", "nvcc", "bridge", "torch 2", "python", "0", ())
    monkeypatch.setattr(cmake_build.Settings, "here", lambda targets: settings)
    return called


def test_a_build_that_was_broken_off_begins_anew(tools_of_paper, tmp_path):
    source = tmp_path / "turn.cu"
    source.write_text("one")
    sources = cmake_build.Sources("turned", source, (source,))
    first = cmake_build.build(sources, None)
    assert cmake_build.build(sources, None) == first
    assert tools_of_paper == [("cmake", False), ("ninja", True), ("ninja", True)]
    (first.parent / "configured").unlink()  # as where CMake was killed
    (first.parent / ".new-left").mkdir()
    assert cmake_build.build(sources, None) == first and not (first.parent / ".new-left").exists()
    assert tools_of_paper[3:] == [("cmake", False), ("ninja", True)]


def test_builds_that_others_may_use_stay_a_while(tools_of_paper, tmp_path):
    source = tmp_path / "turn.cu"
    kept = []
    for number in range(cmake_build._KEPT + 3):
        source.write_text(str(number))
        kept.append(cmake_build.build(cmake_build.Sources("turned", source, (source,)), None))
        os.utime(kept[-1], (number, number))
    assert [folder.exists() for folder in kept] == [False] * 3 + [True] * cmake_build._KEPT
    assert all((folder / "libturned_plugins.so").read_text() == str(i) for i, folder in enumerate(kept) if i >= 3)


def test_what_is_no_source_is_named(tmp_path):
    with pytest.raises(LibraryError, match=rf"{tmp_path}/none does not exist: expected a folder of sources"):
        bridge.load_ops(tmp_path / "none", "turned")
    with pytest.raises(LibraryError, match=r"has no \.cu file, and no CMakeLists\.txt that calls bridge_add_ops"):
        bridge.load_ops(tmp_path, "turned")
    write(tmp_path)
    with pytest.raises(LibraryError, match=r"of which namespace are the ops\? Say load_ops\(path, \"acme\"\)"):
        bridge.load_ops(tmp_path)
    with pytest.raises(LibraryError, match="the namespace is 'Turned', expected a name such as acme"):
        bridge.load_ops(tmp_path, "Turned")
    (tmp_path / "CMakeLists.txt").write_text("bridge_add_ops(one SOURCES a.cu)\nbridge_add_ops(two SOURCES b.cu)\n")
    with pytest.raises(LibraryError, match="has bridge_add_ops of one, two, so give load_ops the namespace"):
        bridge.load_ops(tmp_path)


def test_tools_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(LibraryError, match=r"ninja is not on PATH .*pip install 'bridge-tensorrt\[build\]'"):
        tools.program("ninja")
    monkeypatch.setattr(build_backend, "USUAL_BIN", str(tmp_path))
    monkeypatch.setattr(build_backend, "find_pip_nvcc", lambda paths: None)
    for name in ("CUDACXX", "CUDA_HOME", "BRIDGE_CUDA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LibraryError, match="no CUDA compiler: put nvcc"):
        tools.nvcc()
    with pytest.raises(LibraryError, match="targets has 'gpu', expected compute capabilities"):
        tools.architectures(("sm86", "gpu"))


def test_architectures_are_those_asked_for_or_here(monkeypatch):
    monkeypatch.delenv("BRIDGE_CUDA_ARCHITECTURES", raising=False)
    assert tools.architectures(("sm120", "sm86", "sm86")) == "86;120"
    monkeypatch.setattr(tools, "_present", lambda: ())
    assert tools.architectures(None) == "80"
    monkeypatch.setattr(tools, "_present", lambda: ("86", "90"))
    assert tools.architectures(None) == "86;90"
    monkeypatch.setenv("BRIDGE_CUDA_ARCHITECTURES", "89")
    assert tools.architectures(None) == "89"


def test_gpus_are_asked_of_nvidia_smi(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 12.0\necho 9.0\necho 9.0\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert build_backend.present_architectures() == ["90", "120"]
    script.write_text("#!/bin/sh\nexit 9\n")
    assert build_backend.present_architectures() == []


def test_a_cache_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "file"))
    sources = cmake_build.Sources("turned", tmp_path, (tmp_path / "turn.cu",))
    settings = cmake_build.Settings("86", "nvcc", "bridge", "torch 2", "python", "0", ())
    with pytest.raises(LibraryError, match=r"which cannot be used: .*; BRIDGE_CACHE_DIR names another folder"):
        cmake_build._folder(sources, settings)
