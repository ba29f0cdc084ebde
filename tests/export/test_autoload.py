"""libbridge_autoload.so: plugins register in hosts that only load files, without bridge and without torch."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bridge.core.op import written
from bridge.engine.compiled import CompiledModule
from bridge.export.native import AUTOLOAD, autoload_library

HOST = Path(__file__).with_name("loading_host.py")
LEAN = Path(sys.prefix, "lean")  # `make lean` unpacks the lean runtimes of standard TensorRT here
RUNTIMES = ["tensorrt_rtx", "10.15.1.29", "11.4.0.106"]


@pytest.fixture
def folder(file, tmp_path):
    """The libraries of an exported folder."""
    CompiledModule(file).export(tmp_path / "net")
    return tmp_path / "net" / "plugins"


def host(runtime, *steps, **environment):
    """What each step of loading_host.py gave, and its stderr."""
    if runtime == "tensorrt_rtx" and find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx")
    where = runtime if runtime == "tensorrt_rtx" else str(LEAN / runtime)
    if runtime != "tensorrt_rtx" and not Path(where).is_dir():
        pytest.skip(f"needs the lean runtime {runtime} in {where}: make lean")
    paths = os.pathsep.join([str(HOST.parents[1] / "support"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(HOST), where, *map(str, steps)],
        **{"capture_output": True, "text": True, "timeout": 120},
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_loading_registers_every_plugin_and_both_or_twice_is_harmless(runtime, folder):
    autoload, plugins = folder / AUTOLOAD, folder / "libbridge_plugins.so"
    copy = shutil.copytree(folder, folder.parent / "copy") / AUTOLOAD
    (first, twice, loaded, last), said = host(
        runtime,
        *("tensorrt", f"load:{autoload}", "creators"),
        *(f"load:{autoload}", f"load:{copy}", "creators"),
        *(f"library:{plugins}", "creators"),
    )
    assert first == twice == last == sorted(written())
    assert loaded is False  # for all are there
    assert said == ""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_library_that_is_registered_first_stays(runtime, folder):
    autoload, plugins = folder / AUTOLOAD, folder / "libbridge_plugins.so"
    assert host(runtime, "tensorrt", f"library:{plugins}", f"load:{autoload}", "creators") == (
        [True, sorted(written())],
        "",
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_before_tensorrt_it_says_so_and_load_library_registers(runtime, folder):
    steps = (f"load:{folder / AUTOLOAD}", "tensorrt", "creators", f"library:{folder / AUTOLOAD}", "creators")
    (before, loaded, after), said = host(runtime, *steps)
    assert (before, loaded, after) == ([], True, sorted(written()))
    assert said == (
        "[bridge] no TensorRT is loaded yet, so no plugin is registered; load it first, or call loadLibrary with this "
        "file\n"
    )


def test_what_is_no_plugin_library_is_passed_over(folder):
    (folder / "libtext_plugins.so").write_text("no library")
    shutil.copy(autoload_library(), folder / "libother_plugins.so")
    (creators,), said = host(RUNTIMES[0], "tensorrt", f"load:{folder / AUTOLOAD}", "creators")
    assert creators == sorted(written())
    assert "libtext_plugins.so does not load: " in said
    assert "libother_plugins.so is no plugin library of bridge's, and is passed over" in said


def test_a_folder_without_plugin_libraries(folder):
    (folder / "libbridge_plugins.so").unlink()
    (creators,), said = host(RUNTIMES[0], "tensorrt", f"load:{folder / AUTOLOAD}", "creators")
    assert creators == [] and said == f"[bridge] there is no plugin library in {folder}\n"


def test_a_runtime_that_is_not_known_is_left_alone(folder, tmp_path):
    """Its virtual table may be another one."""
    source = 'extern "C" int getInferLibVersion() { return 120000; } extern "C" void* getPluginRegistry() { return 0; }'
    runtime = tmp_path / "libnvinfer.so.12"
    subprocess.run(["g++", "-shared", "-fPIC", "-xc++", "-", "-o", runtime], input=source, text=True, check=True)
    said = host(RUNTIMES[0], f"load:{runtime}", f"load:{folder / AUTOLOAD}")[1]
    assert said.startswith("[bridge] libnvinfer.so.12 has version 120000, whose registry is not known here; load the")


def test_it_needs_nothing_of_tensorrt_and_of_cuda():
    lines = subprocess.run(["readelf", "-d", autoload_library()], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in lines.splitlines() if "(NEEDED)" in line]
    assert needed and not [name for name in needed if "nv" in name or "cuda" in name or "tensorrt" in name]
