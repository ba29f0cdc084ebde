"""Which kernels calls launch, and which a library has."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bridge.testing import kernel_calls, sanitize, sanitizer_calls
from bridge.testing.sanitizer_calls import Job

# Kernels of bridge's library that no call launches, and why.
NOT_LAUNCHED: dict[str, str] = {}

# What cuobjdump writes.
RESOURCES = """
Fatbin ptx code:
================
arch = sm_86
compressed

Fatbin elf code:
================
arch = sm_86
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN6bridge4reluIfEEvPT_:
  REG:63 STACK:0 SHARED:8192 LOCAL:0 CONSTANT[0]:600 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Function plain:
  REG:8
 Function _ZN6bridge4reluI6__halfEEvPT_:
  REG:9

Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Function _ZN6bridge4swapEv:
  REG:9
"""
ON_86 = ["void bridge::relu<float>(float*)"]
ON_90 = ["bridge::swap()", "plain", "void bridge::relu<__half>(__half*)"]


def test_a_call_is_chosen_for_its_rarest_kernel():
    launched = {0: ["a"], 1: ["a", "b"], 2: ["a", "b", "c"], 3: ["d"], 4: ["b", "d"], 5: []}
    assert kernel_calls.few(launched) == [2, 3]
    assert kernel_calls.few({}) == []


def test_kernels_belong_to_the_call_in_which_they_began():
    def event(name, start, device):
        return SimpleNamespace(
            name=name, time_range=SimpleNamespace(start=start), device_type=SimpleNamespace(name=device)
        )

    events = [
        event("bridge call 7", 10, "CPU"),
        event("bridge call 9", 20, "CPU"),
        event("bridge call 9", 21, "CUDA"),
        event("aten::add", 12, "CPU"),
        *[event("one", start, "CUDA") for start in (15, 19.5, 20.5)],
        event("two", 30, "CUDA"),
        event("Memcpy HtoD (Pageable -> Device)", 31, "CUDA"),
    ]
    assert kernel_calls._kernels(events) == {7: ["one"], 9: ["one", "two"]}


@pytest.mark.gpu
def test_kernels_of_the_calls_are_seen(tmp_path):
    assert (
        sanitizer_calls.main(["bridge", "relu", "--samples", "samples", "--kernels", str(tmp_path / "found.json")]) == 0
    )
    written = json.loads((tmp_path / "found.json").read_text())
    assert all(what.startswith("relu, torch.") for what, _ in written.values())
    found = {int(number): names for number, (_, names) in written.items()}
    names = {name for names in found.values() for name in names}
    assert any("relu" in name and name.endswith(", True") for name in names)
    assert any("relu" in name and name.endswith(", False") for name in names)
    assert len(kernel_calls.few(found)) < len(found)


@pytest.fixture
def cuobjdump(tmp_path, monkeypatch):
    """The script that is found as cuobjdump."""
    (tmp_path / "resources").write_text(RESOURCES)
    script = tmp_path / "cuobjdump"
    script.write_text(f'#!/bin/sh\n[ "$1 $2" = "-res-usage a.so" ] && cat {tmp_path}/resources\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return script


@pytest.mark.parametrize(("capability", "names"), [((9, 0), ON_90), ((8, 6), ON_86), ((8, 9), ON_86)])
def test_kernels_of_a_library_are_those_of_the_gpu(cuobjdump, capability, names):
    assert kernel_calls.of_library(Path("a.so"), capability) == names


@pytest.mark.parametrize("capability", [(8, 0), (10, 0)])
def test_a_library_without_kernels_for_the_gpu(cuobjdump, capability):
    with pytest.raises(RuntimeError, match=f"kernels for sm_86, sm_90, none for sm_{capability[0]}0"):
        kernel_calls.of_library(Path("a.so"), capability)


def test_cuobjdump_that_fails_or_is_not_there(cuobjdump, monkeypatch):
    with pytest.raises(RuntimeError, match=r"cuobjdump fails on b.so"):
        kernel_calls.of_library(Path("b.so"), (9, 0))
    monkeypatch.setattr(kernel_calls.shutil, "which", lambda name, path: None)
    with pytest.raises(FileNotFoundError, match="no cuobjdump on PATH, in CUDA_HOME/bin"):
        kernel_calls.of_library(Path("a.so"), (9, 0))


def test_where_programs_are_looked_for(tmp_path):
    for folder in ("path", "home/bin", "further"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "no-such-program").touch(0o755)
    environ = {"PATH": str(tmp_path / "path"), "CUDA_HOME": str(tmp_path / "home")}
    found = [kernel_calls.tool("no-such-program", {**environ, **gone}) for gone in ({}, {"PATH": "/nowhere"})]
    assert found == [str(tmp_path / folder / "no-such-program") for folder in ("path", "home/bin")]
    further = [tmp_path / "further"]
    assert kernel_calls.tool("no-such-program", {}, further) == str(tmp_path / "further" / "no-such-program")
    assert kernel_calls.tool("no-such-program", {}) is None


@pytest.mark.gpu
def test_every_kernel_is_launched(tmp_path, monkeypatch):
    """Of bridge's library: it takes a minute or two."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where the samples are
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the sizes of samples are chosen for compute capability 9.0, and other code is for that alone")
    sanitize.Runner(Job("bridge", (), "samples"), tmp_path, 8).choose()
    written = tmp_path / "not_launched.json"
    if not written.exists():
        pytest.skip("there is no cuobjdump, which names the kernels of a library")
    assert set(json.loads(written.read_text())) <= set(NOT_LAUNCHED)
