"""The plugin library for aarch64, which `make plugins-aarch64` builds: an emulated processor loads it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bridge import native
from bridge.core.device_code import device_codes
from bridge.core.op import written

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build" / "aarch64" / "library" / "lib" / "libbridge_plugins.so"
COMPILER = "aarch64-linux-gnu-g++"
HEADERS = ROOT / "build" / "aarch64" / "cuda" / "nvidia" / "cu13" / "include"


def emulator():
    return shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


@pytest.fixture
def creators(tmp_path):
    """A program for aarch64 that lists the creators of a library, run as creators(library)."""
    if not LIBRARY.is_file():
        pytest.skip("there is no plugin library for aarch64: make plugins-aarch64")
    if not emulator():
        pytest.skip("there is no emulator of aarch64: apt install qemu-user")
    program, source = tmp_path / "creators", Path(__file__).with_name("aarch64_creators.cpp")
    options = ["-std=c++17", f"-I{ROOT / 'csrc'}", f"-I{HEADERS}"]
    subprocess.run([COMPILER, *options, str(source), "-o", str(program)], check=True)

    def run(library):
        command = [emulator(), "-L", "/usr/aarch64-linux-gnu", str(program), str(library)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_its_creators_are_listed(creators):
    done = creators(LIBRARY)
    assert done.returncode == 0, done.stderr
    own = [name for name in written() if "::" not in name]
    assert sorted(done.stdout.split()) == sorted(f"bridge::{name}" for name in own)


def test_it_has_code_for_jetson_modules(creators):
    found = {code.capability for code in device_codes(LIBRARY)}
    assert {87, 110} <= found


def test_a_library_for_another_processor_is_refused(creators):
    done = creators(native.plugin_library())
    assert done.returncode == 1 and "libbridge_plugins.so" in done.stderr
