"""One plugin library registers every op in each TensorRT, loaded once, twice, or from two paths."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bridge.core import libraries as native
from bridge.core.op import written

PROBE = Path(__file__).parents[1] / "support" / "registry_probe.py"
LEAN = Path(sys.prefix, "lean")  # `make lean` unpacks the lean runtimes of standard TensorRT here
RUNTIMES = ["tensorrt_rtx", "10.15.1.29", "11.4.0.106"]


def probe(runtime: str, *libraries: Path) -> list[dict]:
    where = runtime
    if runtime == "tensorrt_rtx" and find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx")
    if runtime != "tensorrt_rtx":
        where = str(LEAN / runtime)
        if not Path(where).is_dir():
            pytest.skip(f"needs the lean runtime {runtime} in {where}: make lean")
    command = [sys.executable, str(PROBE), where, *map(str, libraries)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["steps"]


def expected() -> dict:
    return {name: ["1", [*(a.name for a in op.attributes), "tensors"]] for name, op in written().items()}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_registers_every_op(runtime):
    assert probe(runtime, native.plugin_library()) == [expected()]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_loading_twice_and_from_two_paths_is_harmless(runtime, tmp_path):
    library = native.plugin_library()
    copy = Path(shutil.copy(library, tmp_path / "copy.so"))
    assert probe(runtime, library, library, copy) == [expected()] * 3


def lines(*command: str) -> list[str]:
    done = subprocess.run([*command, native.plugin_library()], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_library_needs_neither_torch_nor_tensorrt():
    needed = [line.split("[")[1].rstrip("]") for line in lines("readelf", "-d") if "(NEEDED)" in line]
    foreign = re.compile("torch|nvinfer|tensorrt|cudart|python")
    assert needed and not [name for name in needed if foreign.search(name)]


def test_library_exports_only_its_entry_points():
    names = {line.split()[-1].split("@")[0] for line in lines("nm", "-D", "--defined-only")}
    entry_points = {"getCreators", "setLoggerFinder"}
    assert entry_points <= names
    assert not {name for name in names - entry_points if not name.startswith("bridge_")}
