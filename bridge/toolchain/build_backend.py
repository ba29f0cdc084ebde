"""PEP 517 build backend: scikit-build-core, plus a CUDA compiler where the machine has none.

It is bridge's own, and installed as the module `bridge_build` that of packages with ops of their own:

    [build-system]
    requires = ["bridge-tensorrt", "scikit-build-core>=0.11"]
    build-backend = "bridge_build"

Such a package's CMakeLists.txt finds bridge's CMake package without a setting; its wheel is for every Python 3; and
where BRIDGE_CUDA_ARCHITECTURES is not set, kernels are compiled for the GPUs of this machine, else for all.

The compiler is the first of: $CUDACXX, $CUDA_HOME/bin/nvcc, nvcc on PATH, /usr/local/cuda/bin/nvcc. Where there is none
that is new enough, or with BRIDGE_CUDA=pip in the environment, NVIDIA's compiler packages of the Python index become
build requirements and are used instead.

With `pip install --no-build-isolation`, install what `python -m bridge_build` prints first; for bridge itself,
`python bridge/toolchain/build_backend.py`.
"""

# This file is installed twice: within bridge, and as the module `bridge_build`. It imports nothing of bridge's, because
# `import bridge` imports torch, which takes seconds.

from __future__ import annotations

import importlib.util
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

CMAKE_PACKAGE = "sdk/include/bridge/cmake"  # in the package bridge

# Options of CMakeLists.txt that pyproject.toml takes from the environment.
SETTINGS = [
    "BRIDGE_CUDA_ARCHITECTURES",
    "BRIDGE_FAST_COMPILE",
    "BRIDGE_TENSORRT_ROOT",
    "BRIDGE_TORCH",
    "BRIDGE_WERROR",
]


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
    return [TORCH] * _wants_torch(environ) + (CUDA_PACKAGES if find_nvcc(environ) is None else [])


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


def present_architectures() -> list[str]:
    """The compute capabilities of this machine's GPUs, such as "86", least first; empty where there is none.

    Asked of nvidia-smi, for CUDA would have to be initialised, which a process that forks must not do.
    """
    question = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        text = subprocess.run(question, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted({major + minor for major, minor in re.findall(r"^(\d+)\.(\d)$", text, re.MULTILINE)}, key=int)


def find_cmake_package(beside: Path | None = None) -> Path | None:
    """The folder of bridge's CMake package where bridge is installed beside this module, which then is `bridge_build`.

    None: this is bridge's own build.
    """
    folder = Path(beside or __file__).resolve().parent / "bridge" / CMAKE_PACKAGE
    return folder if folder.is_dir() else None


def check_tools(environ: Mapping[str, str] = os.environ) -> None:
    """FileNotFoundError: CMake or torch is not here, as may be in a build without isolation."""
    if not shutil.which("cmake", path=environ.get("PATH", os.defpath)) and not importlib.util.find_spec("cmake"):
        raise FileNotFoundError("no CMake: put cmake 3.24 or later on PATH, or run: pip install cmake ninja")
    if _wants_torch(environ) and not importlib.util.find_spec("torch"):
        raise FileNotFoundError(f"no torch in {sys.executable}: run pip install '{TORCH}', or set BRIDGE_TORCH=OFF")


def _wants_torch(environ: Mapping[str, str]) -> bool:
    return environ.get("BRIDGE_TORCH", "ON").upper() not in ("OFF", "0", "NO", "FALSE")


def _scikit_build() -> Any:
    import scikit_build_core.build

    return scikit_build_core.build


def _build(hook: str, directory: str, config_settings: Any, *args: Any) -> str:
    for setting in SETTINGS:
        if not os.environ.get(setting):
            os.environ.pop(setting, None)  # set but empty: the default, not an empty value
    package = find_cmake_package()
    try:
        if package is not None:
            check_tools()
        os.environ["CUDACXX"] = str(select_compiler())
    except (OSError, ValueError) as error:
        raise SystemExit(f"bridge: {error}") from error
    if package is not None:
        _prepare_for_others(package)
    print(f"bridge: compiling with {os.environ['CUDACXX']}", file=sys.stderr)
    return getattr(_scikit_build(), hook)(directory, _settings_for(config_settings), *args)


def _prepare_for_others(package: Path) -> None:
    """The environment in which CMake finds bridge, and compiles for the GPUs that are here."""
    os.environ.setdefault("bridge_DIR", str(package))
    if "BRIDGE_CUDA_ARCHITECTURES" not in os.environ and (present := present_architectures()):
        os.environ["BRIDGE_CUDA_ARCHITECTURES"] = ";".join(present)
    chosen = os.environ.get("BRIDGE_CUDA_ARCHITECTURES", "all that bridge supports, for there is no GPU here")
    print(f"bridge: for CUDA architectures {chosen} (BRIDGE_CUDA_ARCHITECTURES)", file=sys.stderr)


def _settings_for(config_settings: Any) -> dict[str, Any]:
    """The settings of a build: those of bridge's own stand in its pyproject.toml; another package's wheel is for every
    Python 3, unless the package says otherwise."""
    settings = dict(config_settings or {})
    if find_cmake_package() is None:
        return settings
    if not {"wheel.py-api", "skbuild.wheel.py-api"} & settings.keys() and "py-api" not in _wheel_table():
        settings["wheel.py-api"] = "py3"  # nothing compiled here knows of Python
    return settings


def _wheel_table() -> dict[str, Any]:
    """tool.scikit-build.wheel of the project in this folder."""
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    project = toml.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    return project.get("tool", {}).get("scikit-build", {}).get("wheel", {})


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
    return _scikit_build().prepare_metadata_for_build_wheel(metadata_directory, _settings_for(config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Any = None) -> str:
    """Metadata without a build."""
    return _scikit_build().prepare_metadata_for_build_editable(metadata_directory, _settings_for(config_settings))


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
