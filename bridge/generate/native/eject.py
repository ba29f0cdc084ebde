"""eject: a generated library becomes sources of the user's own, to keep and to edit."""

import json
import shutil
from pathlib import Path
from typing import Any

from bridge.base.files import read_object
from bridge.errors import LibraryError

_CMAKE = """\
cmake_minimum_required(VERSION 3.24...4.0)
project({namespace} LANGUAGES CXX)

set(BRIDGE_TORCH OFF) # plugins for TensorRT alone: PyTorch has the operators already
find_package(bridge REQUIRED) # by hand: cmake -Dbridge_DIR=$(bridge cmake-dir)

add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wa,-I${{CMAKE_CURRENT_SOURCE_DIR}}/csrc>") # of kernels
file(GLOB sources CONFIGURE_DEPENDS csrc/*.cpp)
bridge_add_ops({namespace} SOURCES ${{sources}})
configure_file(library.json lib/library.json COPYONLY) # beside the library
"""

_README = """\
# Plugins of the namespace {namespace}

bridge generated them; they are yours to edit now. `csrc/` has an op struct for every plugin, in C++, and its kernels as
Triton compiled them, for {targets}. `library.json` says what each kernel is.

    cmake -S . -B build -Dbridge_DIR="$(bridge cmake-dir)" && cmake --build build
    BRIDGE_GENERATED_PATH=$PWD/build/lib python serve.py # engines and models take these plugins

An engine asks for a plugin by its name: keep it. `library.json` says what a plugin takes; keep inputs and outputs, too.

| plugin | operator | kernels |
|---|---|---|
{rows}

bridge's headers are `<bridge/core/op.h>` and its neighbours; docs/op_reference.md says what an op struct may have.
"""


def eject(folder: Path, destination: Path) -> list[Path]:
    """Copies a library that `build` made into a new folder, as a CMake project that builds with bridge's CMake package.

    Returns:
        The files that were written.
    Raises:
        LibraryError: `folder` is no generated library, or `destination` holds something already.
    """
    try:
        described = read_object(folder / "library.json", "generated library")
    except (OSError, ValueError) as error:
        raise LibraryError(f"{folder} is no generated library: {error}") from error
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise LibraryError(f"{destination} holds something already; name a folder that does not exist")
    if not (folder / "sources").is_dir():
        raise LibraryError(f"{folder} has no sources, which `bridge build-ops --sources` writes")
    namespace = described["namespace"]
    (destination / "csrc").mkdir(parents=True, exist_ok=True)
    for source in sorted((folder / "sources").iterdir()):
        shutil.copy2(source, destination / "csrc")
    (destination / "CMakeLists.txt").write_text(_CMAKE.format(namespace=namespace), encoding="utf-8")
    (destination / "README.md").write_text(_readme(described), encoding="utf-8")
    kept = {name: value for name, value in described.items() if name != "sha256"}
    (destination / "library.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return sorted(path for path in destination.rglob("*") if path.is_file())


def _readme(described: dict[str, Any]) -> str:
    rows = []
    for op in described["ops"]:
        kernels = ", ".join(dict.fromkeys(each["function"] for each in op["kernels"]))
        rows.append(f"| `{op['name']}` | {op['operator']} | {kernels} |")
    targets = ", ".join(described["targets"])
    return _README.format(namespace=described["namespace"], targets=targets, rows="\n".join(rows))
