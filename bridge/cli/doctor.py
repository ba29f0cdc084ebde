"""What is installed here, what works, and what to install for the rest.

Every question is asked on its own: one that fails becomes text in the report, and the others are still asked.
"""

import importlib.metadata
import platform
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import bridge
from bridge.base.text import columns, size
from bridge.cli import library_table
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.core.signature import NAMESPACE
from bridge.errors import BridgeError
from bridge.tensorrt.install import flavour as flavours
from bridge.tensorrt.install import gpu

_STYLES = {"yes": "green", "no": "red"}
_DRIVER = Path("/proc/driver/nvidia/version")
_BUILD_BRIDGE = "pip install --force-reinstall ."


@dataclass(frozen=True)
class Ability:
    """One thing that bridge does: whether it works here, why not or in what way, and what to do where it does not."""

    name: str
    works: bool
    reason: str
    remedy: str | None = None


@dataclass(frozen=True)
class Report:
    """All that `bridge doctor` says. `usable`: engines can be built or run here."""

    versions: dict[str, str]
    gpus: list[dict[str, Any]]
    libraries: dict[str, dict[str, str]]
    abilities: list[Ability]

    @property
    def usable(self) -> bool:
        """Whether engines can be built or run here."""
        return any(ability.works for ability in self.abilities if ability.name.startswith(("build", "run")))

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"usable": self.usable}

    def __str__(self) -> str:
        gpus = [
            (f"cuda:{gpu['index']}", gpu["name"], gpu["compute_capability"], size(gpu["memory"])) for gpu in self.gpus
        ]
        sections = {
            "versions": columns(self.versions.items()),
            "GPUs": columns(gpus) if gpus else "  none",
            "libraries": columns((name, library["path"], library["state"]) for name, library in self.libraries.items()),
            "what works": columns(_lines(self.abilities), styles=_STYLES),
        }
        return "\n\n".join(f"{title}\n{body}" for title, body in sections.items())


def examine() -> Report:
    """Looks at this machine and this installation. Raises nothing that a broken installation can cause."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of a driver is in the report
        return Report(
            versions={name: _try(question) for name, question in _VERSIONS.items()} | _tensorrt_versions(),
            gpus=_gpus(),
            libraries=library_table.states(),
            abilities=[_ability(name, *row) for name, row in _ABILITIES.items()],
        )


class _Missing(Exception):
    """Why something does not work, and what to do."""

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.remedy = remedy


def _try(question: Callable[[], str]) -> str:
    try:
        return question()
    except Exception as error:
        return _error_text(error)


def _error_text(error: Exception) -> str:
    """An exception in one line; our own messages need no name before them."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (BridgeError, _Missing)) else f"{type(error).__name__}: {text}"


def _ability(name: str, question: Callable[[], str], remedy: str | None) -> Ability:
    try:
        return Ability(name, True, question())
    except _Missing as missing:
        return Ability(name, False, str(missing), missing.remedy)
    except Exception as error:
        return Ability(name, False, _error_text(error), remedy)


def _lines(abilities: Sequence[Ability]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for ability in abilities:
        rows.append(("yes" if ability.works else "no", ability.name, ability.reason))
        if ability.remedy:
            rows.append(("", "", f"→ {ability.remedy}"))
    return rows


# Versions


def _cuda() -> str:
    runtime = f"runtime {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    return f"{runtime}, {_driver()}"


def _driver() -> str:
    if _DRIVER.is_file():
        version = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text())
        return f"driver {version.group() if version else 'of an unknown version'}"
    return "no NVIDIA driver"


_VERSIONS: dict[str, Callable[[], str]] = {
    "python": platform.python_version,
    "bridge": lambda: bridge.__version__,
    "torch": lambda: str(torch.__version__),
    "CUDA": _cuda,
    "onnx": lambda: importlib.metadata.version("onnx"),
}


def _tensorrt_versions() -> dict[str, str]:
    """Every installed flavour with its torch_tensorrt, and which one is in use."""
    try:
        here = flavours.installed()
    except Exception as error:
        return {"tensorrt": _error_text(error)}
    versions = {flavour.name: flavour.version for flavour in here}
    versions |= {
        f"torch_tensorrt for {flavour.name}": flavour.torch_tensorrt_version or "not installed" for flavour in here
    }
    return versions | {"flavour in use": _try(_flavour_in_use)}


def _flavour_in_use() -> str:
    flavour = flavours.detect()
    reason = flavours.unsupported(flavour)
    return f"{flavour.name}; warning: {reason}; {flavours.ANY_VARIABLE}=1 accepts it" if reason else flavour.name


# GPUs and libraries


def _gpus() -> list[dict[str, Any]]:
    try:
        return [_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    except Exception as error:
        return [{"index": 0, "name": _error_text(error), "compute_capability": "?", "memory": 0}]


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    capability = f"sm{properties.major}{properties.minor}"
    return {
        "index": index,
        "name": properties.name,
        "compute_capability": capability,
        "memory": properties.total_memory,
    }


# Abilities: each question says in what way it works, or raises why not


def _ops_on_cpu() -> str:
    x = torch.tensor([-1.0, 2.0])
    if bridge.relu(x, 0.5).tolist() != [-0.5, 2.0]:
        raise _Missing("relu computes wrong values")
    return ", ".join(sorted(OPS))


def _ops_on_cuda() -> str:
    _need_gpu()
    library_table.kernels_text(LIBRARIES[NAMESPACE])
    x = torch.tensor([-1.0, 2.0], device="cuda")
    if bridge.relu(x, 0.5).tolist() != [-0.5, 2.0]:
        raise _Missing("relu computes wrong values on the GPU")
    return torch.cuda.get_device_name()


def _build_elsewhere() -> str:
    from bridge.tensorrt.install.target import cross_targets

    flavour = flavours.detect()
    if not flavour.traits.builds_without_gpu:
        raise _Missing(
            f"{flavour.name} builds for the GPU of this machine alone", flavours.TRAITS["tensorrt_rtx"].remedy
        )
    _need_builder(flavour)
    return f"{flavour.name} {flavour.version}: {', '.join(cross_targets(flavour))}"


def _build_here() -> str:
    from bridge.cli import self_test

    _need_gpu()
    flavour = flavours.detect()
    _need_builder(flavour)
    self_test.build(flavour)
    return f"{flavour.name} {flavour.version}: {gpu.current_target()}"


def _run() -> str:
    from bridge.cli import self_test

    _need_gpu()
    flavour = flavours.detect()
    _need_plugins(flavour)
    self_test.run(self_test.build(flavour))
    return f"{flavour.name} {flavour.version} on {torch.cuda.get_device_name()}"


def _need_gpu() -> None:
    if not torch.version.cuda:
        raise _Missing("torch is built without CUDA", "install a CUDA build of torch: https://pytorch.org")
    try:
        torch.cuda.current_device()
    except Exception as error:
        remedy = "a machine with an NVIDIA GPU and its driver"
        raise _Missing(
            f"there is no CUDA GPU here: {' '.join(str(error).split()).partition('. ')[0]}", remedy
        ) from error


def _need_builder(flavour: flavours.Flavour) -> None:
    flavour.torch_tensorrt()
    _need_plugins(flavour)


def _need_plugins(flavour: flavours.Flavour) -> None:
    from bridge.tensorrt.plugins.registration import register_plugins

    register_plugins(flavour.trt(), [LIBRARIES[NAMESPACE]])


_ABILITIES: dict[str, tuple[Callable[[], str], str | None]] = {
    "ops on CPU": (_ops_on_cpu, _BUILD_BRIDGE),
    "ops on CUDA": (_ops_on_cuda, _BUILD_BRIDGE),
    "build engines for other GPUs": (_build_elsewhere, None),
    "build engines for this GPU": (_build_here, None),
    "run engines": (_run, None),
}
