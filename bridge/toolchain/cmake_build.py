"""Builds of libraries of ops by CMake and Ninja, in folders of the cache that later builds go on from.

A build folder is <cache>/libraries/<key>, where the key stands for the sources' folder and all settings. It holds

    project/CMakeLists.txt   where the sources have none of their own
    build/                   CMake's and Ninja's
    configured               written when CMake is done; without it a build begins anew
    log.txt                  what the last build wrote
    <digest>/                the libraries by their content: what a process has loaded is never overwritten
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bridge.base import cache_folder, log
from bridge.base.files import own_folder, sha256
from bridge.base.locks import locked
from bridge.base.package import __version__
from bridge.errors import LibraryError
from bridge.toolchain import compiler_output, tools

_KEPT = 8  # libraries of earlier builds, which a process may still use
_VARIABLES = ("CXX", "CXXFLAGS", "CUDAFLAGS", "CUDAHOSTCXX", "LDFLAGS", "BRIDGE_TORCH", "BRIDGE_WERROR")


@dataclass(frozen=True)
class Sources:
    """What is built. path: what the user named: a folder with a CMakeLists.txt, or with the sources in `files`, or the
    only one of these."""

    namespace: str
    path: Path
    files: tuple[Path, ...] = ()

    def cmake_lists(self) -> str:
        """The CMakeLists.txt of sources that have none."""
        files = "\n  ".join(_quoted(file) for file in self.files)
        return (
            f"cmake_minimum_required(VERSION 3.24...4.0)\nproject({self.namespace} LANGUAGES CXX)\n"
            f"find_package(bridge REQUIRED)\nbridge_add_ops({self.namespace} INCLUDE_DIRECTORIES "
            f"{_quoted(self.path if self.path.is_dir() else self.path.parent)} SOURCES\n  {files})\n"
        )


@dataclass(frozen=True)
class Settings:
    """All that a build depends on beside its sources."""

    architectures: str
    compiler: str
    package: str
    torch: str
    python: str
    bridge: str
    environment: tuple[tuple[str, str], ...]

    @classmethod
    def here(cls, targets: tuple[str, ...] | None) -> "Settings":
        """Of this process. LibraryError: a tool is missing, or a target is none."""
        return cls(
            architectures=tools.architectures(targets),
            compiler=str(tools.nvcc()),
            package=str(tools.cmake_package()),
            torch=f"{tools.torch_folder()} {torch.__version__}",
            python=sys.executable,
            bridge=__version__,
            environment=tuple((name, os.environ[name]) for name in _VARIABLES if name in os.environ),
        )


def build(sources: Sources, targets: tuple[str, ...] | None) -> Path:
    """Builds what changed, and returns the folder with the libraries.

    Raises:
        LibraryError: a tool is missing, or the sources do not build; the message has the compiler's errors.
    """
    settings = Settings.here(targets)
    folder = _folder(sources, settings)
    with locked(folder.with_suffix(".lock"), f"the library {sources.namespace} is being built by another process"):
        if sources.files:
            _write(folder / "project" / "CMakeLists.txt", sources.cmake_lists())
        if not (folder / "configured").is_file():
            _configure(folder, sources, settings)
        with log.step(f"building {sources.namespace}"):
            _run([tools.program("ninja"), *_jobs(), "-C", str(folder / "build")], folder, sources, settings)
        return _publish(folder, sources)


def _folder(sources: Sources, settings: Settings) -> Path:
    described = [sources.namespace, str(sources.path), asdict(settings)]
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder.folder_of() / "libraries" / f"{sources.namespace}-{key}"
    try:
        own_folder(folder, private=True)  # what is in it is loaded as code
    except OSError as error:
        raise LibraryError(
            f"builds go to {folder}, which cannot be used: {error}; {cache_folder.VARIABLE} names another folder"
        ) from error
    return folder


def _configure(folder: Path, sources: Sources, settings: Settings) -> None:
    """Has CMake write the build, from nothing: an attempt that was broken off may have left half of one."""
    shutil.rmtree(folder / "build", ignore_errors=True)
    project = folder / "project" if sources.files else sources.path
    command = [
        *(tools.program("cmake"), "-S", str(project), "-B", str(folder / "build"), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tools.program('ninja')}",
        f"-DCMAKE_CUDA_ARCHITECTURES={settings.architectures}",
        f"-DCMAKE_CUDA_COMPILER={settings.compiler}",
        f"-DPython_EXECUTABLE={settings.python}",
        f"-Dbridge_DIR={settings.package}",
    ]
    with log.step(f"configuring {sources.namespace}"):
        _run(command, folder, sources, settings)
    (folder / "configured").touch()


def _write(path: Path, text: str) -> None:
    """Writes a file where it is another: a new time of change would have Ninja run CMake."""
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def _run(command: Sequence[str], folder: Path, sources: Sources, settings: Settings) -> None:
    """Runs CMake or Ninja. LibraryError: it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"LC_ALL": "C"}, check=False
    )
    output = done.stdout.decode(errors="replace")
    (folder / "log.txt").write_text(output)
    if done.returncode:
        own = [Path(settings.package).parent, Path(settings.torch.rpartition(" ")[0])]
        raise LibraryError(
            f"{sources.namespace} in {sources.path} does not build:\n{compiler_output.explain(output, own)}\n"
            f"The whole output is in {folder / 'log.txt'}"
        )


def _jobs() -> list[str]:
    """As many at a time as CMake's own variable says, else as Ninja likes."""
    level = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "")
    return ["-j", level] if level.isdigit() else []


def _publish(folder: Path, sources: Sources) -> Path:
    """Copies the libraries to a folder that is named after their content; LibraryError: there are none."""
    built = sorted((folder / "build" / "lib").glob(f"lib{sources.namespace}_*.so"))
    if not built:
        others = ", ".join(each.name for each in sorted((folder / "build" / "lib").glob("lib*.so"))) or "nothing"
        raise LibraryError(
            f"{sources.path} builds {others}, no library of {sources.namespace}: give load_ops the namespace that "
            "its CMakeLists.txt has in bridge_add_ops"
        )
    digest = hashlib.sha256("".join(sha256(library) for library in built).encode()).hexdigest()[:24]
    published = folder / f"libraries-{digest}"
    if not published.is_dir():
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        for library in built:
            shutil.copy2(library, temporary)
        temporary.chmod(0o700)
        temporary.rename(published)
    os.utime(published)
    _remove_old(folder)
    return published


def _remove_old(folder: Path) -> None:
    published = sorted(folder.glob("libraries-*"), key=lambda each: each.stat().st_mtime, reverse=True)
    for each in [*published[_KEPT:], *folder.glob(".new-*")]:
        shutil.rmtree(each, ignore_errors=True)


def _quoted(path: Path) -> str:
    """A path as CMake's bracket argument, in which nothing is special."""
    return f"[==[{path}]==]"
