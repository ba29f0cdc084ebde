"""The compilers that libraries are built with in tests, as bridge's own build finds them."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from bridge.toolchain import build_backend


def nvcc() -> Path | None:
    try:
        return Path(build_backend.select_compiler())
    except FileNotFoundError:
        return None


def tool(name: str) -> str | None:
    """A program of this environment, or on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def environment() -> dict[str, str]:
    """For a build: names the compiler."""
    return os.environ | {"CUDACXX": str(nvcc())}


needs_compilers = pytest.mark.skipif(
    nvcc() is None or not all(map(tool, ("cmake", "ninja", "c++"))),
    reason="needs nvcc, cmake, ninja and a C++ compiler",
)
