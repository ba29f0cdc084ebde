"""The example package, built once by its own build backend, and what it takes to import it."""

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from compilers import needs_compilers
from own_ops import forgotten
from run_folder import folder_of_run

import bridge
from bridge.core.library import LIBRARIES
from bridge.errors import LibraryError
from bridge.toolchain import build_backend, tools

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "acme_corr"
BUILT = os.environ.get("ACME_LIBRARY_DIR")  # where its native libraries are, if they were built elsewhere
BUILD = "import sys, bridge_build; print(bridge_build.build_wheel(sys.argv[1]))"


def pytest_collection_modifyitems(items):
    for item in items:
        if not BUILT and "own_ops" in item.path.parts and {"site", "acme", "turn"} & set(item.fixturenames):
            item.add_marker(needs_compilers)


@pytest.fixture(scope="session")
def sdk():
    """The folder with bridge's CMake package, which an installation has."""
    try:
        return tools.cmake_package()
    except LibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def site(request, tmp_path_factory):
    """A folder as pip fills it with the example's wheel; made by the first process of a run that needs it."""
    if BUILT:
        return EXAMPLE
    request.getfixturevalue("sdk")
    shared = folder_of_run(tmp_path_factory)
    done = shared / "acme" / "site"
    with (shared / "acme.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_dir():
            zipfile.ZipFile(build_wheel(EXAMPLE, shared / "acme")).extractall(shared / "acme" / "unpacked")
            (shared / "acme" / "unpacked").rename(done)
    return done


def build_wheel(project: Path, folder: Path) -> Path:
    """A package's wheel, for compute capability 8.6, by the backend as bridge's wheel installs it."""
    installed = folder / "installed"
    installed.mkdir(parents=True)
    shutil.copy(build_backend.__file__, installed / "bridge_build.py")
    (installed / "bridge").symlink_to(tools.cmake_package().parents[3])
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PYTHONPATH": str(installed),
        "PATH": scripts + os.pathsep + os.environ["PATH"],
        "BRIDGE_CUDA_ARCHITECTURES": "86",
        "BRIDGE_FAST_COMPILE": "ON",
    }
    environment.pop("bridge_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, folder], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def acme(site):
    """The example, imported from there; bridge forgets it afterwards."""
    with forgotten(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("acme_corr")
        assert bridge.OPS["acme::corr"].library is LIBRARIES["acme"]
