"""PEP 517 build backend: scikit-build-core, plus a CUDA compiler where the machine has none.

The compiler is the first of: $CUDACXX, $CUDA_HOME/bin/nvcc, nvcc on PATH, /usr/local/cuda/bin/nvcc. Where there is none
that is new enough, or with BRIDGE_CUDA=pip in the environment, NVIDIA's compiler packages of the Python index become
build requirements and are used instead.

With `pip install --no-build-isolation`, install what `python csrc/build_backend.py` prints first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OLDEST_CUDA = (12, 8)  # the first whose nvcc compiles for compute capability 12.0
USUAL_BIN = "/usr/local/cuda/bin"
CUDA_PACKAGES = [  # nvcc itself, its device compiler, headers of each, and the runtime with libcudart_static.a
    "nvidia-cuda-nvcc==13.0.*",
    "nvidia-nvvm==13.0.*",
    "nvidia-cuda-crt==13.0.*",
    "nvidia-cuda-runtime==13.0.*",
    "nvidia-cuda-cccl==13.0.*",
]
TORCH = "torch>=2.10"  # the first with all of the stable ABI that csrc/hosts/torch uses

# Options of CMakeLists.txt that pyproject.toml takes from the environment.
SETTINGS = ["BRIDGE_CUDA_ARCHITECTURES", "BRIDGE_TENSORRT_ROOT", "BRIDGE_TORCH", "BRIDGE_WERROR"]


def cuda_version(nvcc: Path) -> tuple[int, int]:
    """Version of a CUDA compiler, (0, 0) if it does not run or does not say."""
    try:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return (0, 0)
    found = re.search(r"release (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def find_nvcc(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The machine's own nvcc, or None: there is none new enough, or BRIDGE_CUDA=pip.

    Raises:
        ValueError: CUDACXX names no program, or BRIDGE_CUDA is neither "auto" nor "pip".
    """
    choice = environ.get("BRIDGE_CUDA") or "auto"
    if choice not in ("auto", "pip"):
        raise ValueError(f"BRIDGE_CUDA={choice!r}: expected 'auto' (the machine's nvcc if it has one) or 'pip'")
    if choice == "pip":
        return None
    path = environ.get("PATH", os.defpath)
    if environ.get("CUDACXX"):  # explicit: taken as it is
        nvcc = shutil.which(environ["CUDACXX"], path=path)
        if nvcc is None:
            raise ValueError(f"CUDACXX={environ['CUDACXX']!r}: no such program")
        return Path(nvcc)
    home = environ.get("CUDA_HOME")
    places = [f"{home}/bin", path, USUAL_BIN] if home else [path, USUAL_BIN]
    found = (shutil.which("nvcc", path=place) for place in places)
    return next((Path(nvcc) for nvcc in found if nvcc and _new_enough(Path(nvcc))), None)


def _new_enough(nvcc: Path) -> bool:
    version = cuda_version(nvcc)
    if version < OLDEST_CUDA:
        found, needed = (".".join(map(str, v)) for v in (version, OLDEST_CUDA))
        print(f"bridge: {nvcc} is CUDA {found}, {needed} or later is needed; looking on", file=sys.stderr)
    return version >= OLDEST_CUDA


def find_pip_nvcc(paths: Iterable[str] | None = None) -> Path | None:
    """The nvcc that CUDA_PACKAGES installed on `paths` (default: sys.path), or None."""
    candidates = (Path(p, "nvidia", "cu13", "bin", "nvcc") for p in (sys.path if paths is None else paths))
    return next((nvcc for nvcc in candidates if nvcc.exists()), None)


def requirements(environ: Mapping[str, str] = os.environ) -> list[str]:
    """What a build needs besides scikit-build-core's own requirements (cmake and ninja where the machine has none)."""
    torch = environ.get("BRIDGE_TORCH", "ON").upper() not in ("OFF", "0", "NO", "FALSE")
    return [TORCH] * torch + (CUDA_PACKAGES if find_nvcc(environ) is None else [])


def select_compiler(environ: Mapping[str, str] = os.environ, paths: Iterable[str] | None = None) -> Path:
    """The CUDA compiler to build with: the machine's, else the Python index's.

    Raises:
        FileNotFoundError: there is neither.
    """
    nvcc = find_nvcc(environ) or find_pip_nvcc(paths)
    if nvcc is None:
        packages = " ".join(f"'{p}'" for p in CUDA_PACKAGES)
        raise FileNotFoundError(
            "no CUDA compiler: put nvcc (CUDA 12.8 or later) on PATH, set CUDACXX, or, for a build without isolation, "
            f"run: pip install {packages}"
        )
    return nvcc


def _scikit_build() -> Any:
    import scikit_build_core.build

    return scikit_build_core.build


def _build(hook: str, *args: Any) -> str:
    for setting in SETTINGS:
        if not os.environ.get(setting):
            os.environ.pop(setting, None)  # set but empty: the default, not an empty value
    os.environ["CUDACXX"] = str(select_compiler())
    print(f"bridge: compiling with {os.environ['CUDACXX']}", file=sys.stderr)
    return getattr(_scikit_build(), hook)(*args)


# The hooks of PEP 517 and PEP 660.


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """What scikit-build-core asks for."""
    return _scikit_build().get_requires_for_build_sdist(config_settings)


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What scikit-build-core asks for, torch, and the CUDA compiler if the machine has none."""
    return [*_scikit_build().get_requires_for_build_wheel(config_settings), *requirements()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """As for a wheel."""
    return [*_scikit_build().get_requires_for_build_editable(config_settings), *requirements()]


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Metadata without a build."""
    return _scikit_build().prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Any = None) -> str:
    """Metadata without a build."""
    return _scikit_build().prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Pack the sources."""
    return _scikit_build().build_sdist(sdist_directory, config_settings)


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Compile and pack."""
    return _build("build_wheel", wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Compile and link the sources into the environment."""
    return _build("build_editable", wheel_directory, config_settings, metadata_directory)


if __name__ == "__main__":
    print(*get_requires_for_build_wheel())
