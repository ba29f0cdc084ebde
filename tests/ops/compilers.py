"""The compilers that libraries are built with in tests, as bridge's own build finds them."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("bridge_build_of_tests", ROOT / "csrc" / "build_backend.py")
assert _spec is not None and _spec.loader is not None
_backend = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_backend)


def nvcc() -> Path | None:
    try:
        return Path(_backend.select_compiler())
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
