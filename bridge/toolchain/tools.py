"""Where the programs are that compile libraries of ops, and bridge's CMake package."""

import os
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path

from bridge.base import package
from bridge.errors import LibraryError
from bridge.toolchain import build_backend

_FALLBACK = "80"  # with PTX: runs on every GPU of compute capability 8.0 and later


def cmake_package() -> Path:
    """The folder with bridgeConfig.cmake. LibraryError: this installation has none."""
    places = [folder / build_backend.CMAKE_PACKAGE for folder in package.folders()]
    found = next((place for place in places if (place / "bridgeConfig.cmake").is_file()), None)
    if found is None:
        raise LibraryError(f"bridge's CMake package is not in {', '.join(map(str, places))}: install bridge again")
    return found


def program(name: str) -> str:
    """The path of cmake or ninja: that of this environment's Python package, else the one on PATH.

    Raises:
        LibraryError: there is neither.
    """
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise LibraryError(
            f"{name} is not on PATH and not in {sysconfig.get_path('scripts')}: pip install 'bridge-tensorrt[build]', "
            f"or pip install {name}"
        )
    return found


def nvcc() -> Path:
    """The CUDA compiler, chosen as for `pip install`. LibraryError: there is none, or a setting of it is wrong."""
    try:
        return build_backend.select_compiler()
    except (OSError, ValueError) as error:
        raise LibraryError(str(error)) from error


def torch_folder() -> Path:
    """The torch of this process. LibraryError: it has no headers."""
    folder = Path(sys.modules["torch"].__file__ or "").parent
    if not (folder / "include" / "torch" / "csrc" / "stable" / "c" / "shim.h").is_file():
        raise LibraryError(f"{folder} has no headers of torch 2.10 or later: pip install '{build_backend.TORCH}'")
    return folder


def architectures(targets: tuple[str, ...] | None) -> str:
    """What to compile for, as CMake takes it.

    targets: such as ("sm86", "sm120"); None: the environment's BRIDGE_CUDA_ARCHITECTURES, else the GPUs of this
    machine, else compute capability 8.0 with PTX, which later GPUs run, too.

    Raises:
        LibraryError: a target is none.
    """
    if targets is None:
        return os.environ.get("BRIDGE_CUDA_ARCHITECTURES") or ";".join(_present()) or _FALLBACK
    for target in targets:
        if not (target.startswith("sm") and target[2:].isdigit() and len(target) in (4, 5)):
            raise LibraryError(f'targets has {target!r}, expected compute capabilities such as "sm86"')
    return ";".join(sorted({target[2:] for target in targets}, key=int))


@cache
def _present() -> tuple[str, ...]:
    return tuple(build_backend.present_architectures())
