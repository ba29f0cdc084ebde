"""The C++ compiler, and bridge's native sources as objects that every generated library is linked with."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from bridge.base.cache_folder import VARIABLE
from bridge.base.files import own_folder
from bridge.base.locks import locked
from bridge.errors import LibraryError
from bridge.generate.native import triton_private
from bridge.generate.native.canonical import sdk_digest, sdk_folder
from bridge.toolchain import compiler_output

_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall", "-Wextra"]
_HOST = ("core", "hosts/tensorrt", "hosts/tensorrt/plugin", "triton")
_NAMESPACE_FILE = "core/library.cpp"  # the only one that depends on the namespace
# Of CUDA's headers and static runtime: in torch's packages for CUDA 13 and 12, and in a toolkit.
_PACKAGES = ("nvidia/cu13", "nvidia/cuda_runtime")
_TOOLKIT = "/usr/local/cuda"
_RUNTIME = "libcudart_static.a"


@dataclass(frozen=True)
class Cuda:
    """Where the headers are, and the runtime to link."""

    headers: Path
    runtime: Path


def find_cuda() -> Cuda:
    """CUDA's headers and its static runtime: those of torch's own packages, else of CUDA_HOME, else of /usr/local/cuda.

    Raises:
        LibraryError: there are none.
    """
    beside_torch = Path(torch.__file__).parent.parent
    roots = [
        folder / package for package in _PACKAGES for folder in dict.fromkeys([beside_torch, *map(Path, sys.path)])
    ]
    roots += [Path(root) for root in (os.environ.get("CUDA_HOME"), _TOOLKIT) if root]
    for root in roots:
        runtimes = [root / part / _RUNTIME for part in ("lib", "lib64")]
        runtime = next((path for path in runtimes if path.is_file()), None)
        if runtime is not None and (root / "include" / "cuda_runtime_api.h").is_file():
            return Cuda(root / "include", runtime)
    raise LibraryError(
        "CUDA's headers and libcudart_static.a are not here, which generated libraries are built with: pip install "
        "nvidia-cuda-runtime, or set CUDA_HOME to a CUDA toolkit"
    )


def compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, else g++, else c++. LibraryError: there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    command = named or [next((name for name in ("g++", "c++") if shutil.which(name)), "g++")]
    if shutil.which(command[0]) is None:
        where = f"CXX names {command[0]!r}, which is no program" if named else "no g++ is on PATH"
        raise LibraryError(
            f"{where}; generated libraries need a C++ 17 compiler: install g++ (apt install g++), or set CXX"
        )
    return command


class Compiler:
    """Compiles and links libraries. folder: of the cache, where bridge's own objects are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = compiler()
        self._cuda = find_cuda()
        self._sdk = sdk_folder()
        self._flags = [
            *_FLAGS,
            f"-ffile-prefix-map={self._sdk}=bridge",
            *(f"-I{self._sdk}", f"-I{self._sdk.parent}", "-isystem", str(self._cuda.headers)),
            # Has crt/host_defines.h, which torch's packages lack.
            *("-idirafter", str(triton_private.include_folder())),
        ]

    def library(self, namespace: str, sources: Sequence[Path], output: Path) -> None:
        """Links a library of these sources, beside which their fat binaries lie.

        Raises:
            LibraryError: it does not build; the message has the compiler's errors.
        """
        host = self.host_object()
        with tempfile.TemporaryDirectory(prefix=".objects-", dir=output.parent) as temporary:
            objects = Path(temporary)
            define = f'-DBRIDGE_NAMESPACE="{namespace}"'
            jobs: list[tuple[Path, list[str]]] = [(source, []) for source in sources]
            self._compile([*jobs, (self._sdk / _NAMESPACE_FILE, [define])], objects)
            own = sorted(objects.glob("*.o"))
            options = [
                f"-Wl,--version-script={self._sdk / 'exports.map'}",
                "-Wl,--exclude-libs,ALL",
                "-Wl,--no-undefined",
            ]
            libraries = [str(self._cuda.runtime), "-Wl,--as-needed", "-lpthread", "-ldl", "-lrt"]
            link = [*self._command, "-shared", "-Wl,-s", *options, "-o", str(output)]
            self._run([*link, *map(str, own), str(host), *libraries], output.name)

    def host_object(self) -> Path:
        """bridge's own sources as one object, the same for every library: compiled once.

        It is one file of C++, for headers take most of the time of each.
        """
        described = repr([self._flags, self._command, sdk_digest()])
        host = self._folder / f"host-{hashlib.sha256(described.encode()).hexdigest()[:24]}.o"
        with locked(host.with_suffix(".lock"), "bridge's native sources are being compiled by another process"):
            if not host.is_file():
                with tempfile.TemporaryDirectory(prefix=".host-", dir=self._folder) as temporary:
                    source = Path(temporary) / "host.cpp"
                    includes = [f'#include "{path}"\n' for path in self._host_sources()]
                    source.write_text("".join(includes), encoding="utf-8")
                    self._compile([(source, [])], source.parent)
                    (source.parent / "host.cpp.o").rename(host)
            os.utime(host)  # used last now, see cache.py
        return host

    def _host_sources(self) -> list[Path]:
        files = [file for part in _HOST for file in sorted((self._sdk / part).glob("*.cpp"))]
        return [file for file in files if file != self._sdk / _NAMESPACE_FILE]

    def _compile(self, jobs: Sequence[tuple[Path, list[str]]], folder: Path) -> None:
        def run(job: tuple[Path, list[str]]) -> None:
            source, options = job
            seed = f"-frandom-seed={source.name}"
            target = folder / f"{source.name}.o"
            command = [*self._command, *self._flags, *options, seed, "-c", str(source), "-o", str(target)]
            self._run(command, source.name, source.parent)

        with ThreadPoolExecutor(max(1, min(len(jobs), os.cpu_count() or 1))) as pool:
            list(pool.map(run, jobs))

    def _run(self, command: Sequence[str], what: str, folder: Path | None = None) -> None:
        """Runs the compiler in a folder, where the assembler looks for fat binaries."""
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C"},
            check=False,
        )
        if done.returncode:
            output = done.stdout.decode(errors="replace")
            raise LibraryError(f"{what} does not build with {self._command[0]}:\n{compiler_output.explain(output, [])}")


def cache_folder_of(root: Path) -> Path:
    """A folder of the cache, as an absolute path, that no other user can write to: what is in it is loaded as code.

    Raises:
        LibraryError: it cannot be made.
    """
    root = root.absolute()  # the compiler runs in other folders
    try:
        own_folder(root, private=True)
    except OSError as error:
        raise LibraryError(
            f"generated libraries go to {root}, which cannot be used: {error}; {VARIABLE} names another folder"
        ) from error
    return root
