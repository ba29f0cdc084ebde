"""Which TensorRT is installed, and what it can do.

`detect` reads package metadata alone; a TensorRT is imported when `Flavour.trt` or `Flavour.torch_tensorrt` is called.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from bridge.base import import_hook, interrupts, log, third_party_output
from bridge.errors import FlavourError
from bridge.tensorrt.install import gpu, soname, version_shims

TORCH_TENSORRT = "torch_tensorrt"  # the module, whatever the distribution
ANY_VARIABLE = "BRIDGE_ANY_TENSORRT"  # 1 in the environment accepts versions that bridge does not support


@dataclass(frozen=True)
class Kind:
    """What sets one flavour apart, whatever its version."""

    distributions: tuple[str, ...]  # any of these provides it
    torch_tensorrt: str  # the distribution of torch_tensorrt that is made for it
    since: tuple[int, ...]  # the oldest version whose plugins bridge can use
    adds_plugins: bool  # INetworkDefinition.add_plugin_v3 exists; otherwise plugin layers are seeded
    builds_without_gpu: bool
    compiles_kernels: bool  # for the GPU that an engine runs on, when it runs
    install: str
    install_newest: str | None = None  # where torch is newer than that knows, for its version ("2.14")

    @property
    def remedy(self) -> str:
        """What installs it, with torch_tensorrt for the torch that is here."""
        torch, (oldest, newest) = release(_version("torch") or "")[:2], _SECOND_COMMAND
        if self.install_newest is None or torch < oldest:
            return self.install
        return self.install_newest.format(".".join(map(str, min(torch, newest))))


KINDS = {
    "tensorrt": Kind(
        distributions=(
            "tensorrt",
            "tensorrt-cu13",
            "tensorrt-cu12",
            "tensorrt-cu13-bindings",
            "tensorrt-cu12-bindings",
        ),
        torch_tensorrt="torch-tensorrt",
        since=(10, 15),
        adds_plugins=True,
        builds_without_gpu=False,
        compiles_kernels=False,
        install="pip install torch-tensorrt tensorrt",
    ),
    "tensorrt_rtx": Kind(
        distributions=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings"),
        torch_tensorrt="torch-tensorrt-rtx",
        since=(1, 7),  # before 1.7 the ONNX parser, by which plugin layers are seeded, imports no IPluginV3
        adds_plugins=False,
        builds_without_gpu=True,
        compiles_kernels=True,
        install='pip install "torch-tensorrt-rtx==2.11.*" "tensorrt-rtx==1.7.1.116"',
        # Later ones ask for an older TensorRT-RTX than 1.7, so that pip cannot resolve both at once.
        install_newest=(
            'pip install "tensorrt-rtx==1.7.1.116" dllist psutil; then pip install --no-deps "torch-tensorrt-rtx=={}.*"'
        ),
    ),
}

# The oldest and the newest torch whose torch-tensorrt-rtx is installed by the second command.
_SECOND_COMMAND = ((2, 12), (2, 14))


@dataclass(frozen=True)
class Flavour:
    """An installed TensorRT. `torch_tensorrt_version` is None where torch_tensorrt is not installed for it."""

    name: str
    version: str
    torch_tensorrt_version: str | None

    @property
    def kind(self) -> Kind:
        """What sets this flavour apart, whatever its version."""
        return KINDS[self.name]

    def trt(self) -> ModuleType:
        """TensorRT's Python module, imported on the first call."""
        return _import_trt(self)

    def torch_tensorrt(self) -> ModuleType:
        """torch_tensorrt, imported on the first call with the shims that its version needs.

        FlavourError: it is not installed for this flavour, or does not import.
        """
        return _import_torch_tensorrt(self)


def detect(name: str | None = None) -> Flavour:
    """The flavour that torch_tensorrt uses here; without torch_tensorrt, the one that is installed.

    FlavourError: none is installed, it is not `name`, where that is given, or it is too old. BRIDGE_ANY_TENSORRT=1 in
    the environment turns the last into a warning, once in a process.
    """
    found = _chosen()
    if name is not None and name != found.name:
        raise FlavourError(
            f"flavour {name!r} is asked for, but {found.name} {found.version} is in use here; in another environment,"
            f" {KINDS[name].remedy}"
        )
    reason = unsupported(found)
    if reason and not _accepts_any():
        raise FlavourError(f"{reason}; {found.kind.remedy}; to try it all the same, set {ANY_VARIABLE}=1")
    if reason:
        _warn_once(f"{reason}; used all the same, because {ANY_VARIABLE} is 1")
    return found


def unsupported(flavour: Flavour) -> str | None:
    """Why bridge does not support this version; None where it does."""
    if release(flavour.version) >= flavour.kind.since:
        return None
    oldest = ".".join(map(str, flavour.kind.since))
    return f"{flavour.name} {flavour.version} is too old: bridge needs {oldest} or later"


def _accepts_any() -> bool:
    text = os.environ.get(ANY_VARIABLE, "").strip()
    if text not in ("", "0", "1"):
        raise FlavourError(f"{ANY_VARIABLE} is {text!r}, expected 1 (accept any TensorRT) or 0")
    return text == "1"


@functools.cache
def _warn_once(text: str) -> None:
    log.logger.warning(text)


def installed() -> list[Flavour]:
    """Every flavour that is installed, each with its own torch_tensorrt."""
    found = ((name, _first_version(kind.distributions), _version(kind.torch_tensorrt)) for name, kind in KINDS.items())
    return [Flavour(name, version, torch_tensorrt) for name, version, torch_tensorrt in found if version is not None]


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 11, 0) for "2.11.0+cu130"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def _chosen() -> Flavour:
    flavours = {flavour.name: flavour for flavour in installed()}
    if not flavours:
        raise FlavourError("no TensorRT is installed; " + _ways(KINDS))
    # torch_tensorrt serves TensorRT-RTX if its distribution is named so, else standard TensorRT, whatever is installed.
    wanted = [name for name in ("tensorrt_rtx", "tensorrt") if _version(KINDS[name].torch_tensorrt) is not None]
    if not wanted:
        return next(iter(flavours.values()))
    if wanted[0] not in flavours:
        raise FlavourError(
            f"{KINDS[wanted[0]].torch_tensorrt} is installed without {wanted[0]}; "
            + _ways({wanted[0]: KINDS[wanted[0]]})
        )
    return flavours[wanted[0]]


def _ways(kinds: dict[str, Kind]) -> str:
    return "install " + ", or ".join(f"{name}: {kind.remedy}" for name, kind in kinds.items())


def _first_version(distributions: tuple[str, ...]) -> str | None:
    return next((version for version in map(_version, distributions) if version is not None), None)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _import_trt(flavour: Flavour) -> ModuleType:
    log.reserve_standard_streams()
    with interrupts.deferred():
        try:
            trt = importlib.import_module(flavour.name)
        except ImportError as error:
            raise FlavourError(
                f"{flavour.name} {flavour.version} does not import: {error}; {flavour.kind.remedy}"
            ) from error
        if flavour.name == "tensorrt_rtx":
            _provide_parser_name(flavour)
    return trt


def _provide_parser_name(flavour: Flavour) -> None:
    try:
        soname.provide("libtensorrt_rtx.so", f"libtensorrt_rtx.so.{release(flavour.version)[0]}")
    except OSError as error:
        raise FlavourError(
            f"{flavour.name} {flavour.version} cannot be used: a small library could not be written to a temporary file"
            f" and loaded: {error}; set TMPDIR to a folder that can be written to and holds programs (not noexec)"
        ) from error


@contextlib.contextmanager
def importing(flavour: Flavour) -> Iterator[None]:
    """Around the import of torch_tensorrt: the shims of its version, and a stand-in where there is no GPU.

    FlavourError: TensorRT itself does not import.
    """
    with interrupts.deferred(), gpu.without_gpu(), _shims(flavour, version_shims.IMPORT):
        yield


@contextlib.contextmanager
def converting(flavour: Flavour) -> Iterator[None]:
    """Around a conversion of bridge's own: the shims that torch_tensorrt's converters need for it."""
    with version_shims.own_conversion(), _shims(flavour, version_shims.OWN_CONVERSION):
        yield


def registered(flavour: Flavour) -> contextlib.AbstractContextManager[None]:
    """While bridge is registered: the shims that torch_tensorrt's own compile needs to work at all."""
    return _shims(flavour, version_shims.REGISTERED)


def _shims(flavour: Flavour, when: str) -> contextlib.AbstractContextManager[None]:
    version = release(flavour.torch_tensorrt_version or "")
    rows = [shim for shim in version_shims.shims_for(flavour.name, version) if when in shim.when]
    return version_shims.applied(rows, flavour.trt)


def _check_temporary_folder() -> None:
    """FlavourError: there is none, which torch_tensorrt asks for when it is imported, and torch when it compiles."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise FlavourError(
            f"there is no folder for temporary files: {error}; set TMPDIR to a folder that can be written to"
        ) from error


@functools.cache
def _import_torch_tensorrt(flavour: Flavour) -> ModuleType:
    if flavour.torch_tensorrt_version is None:
        raise FlavourError(f"{flavour.kind.torch_tensorrt} is not installed; {flavour.kind.remedy}")
    flavour.trt()
    _check_temporary_folder()
    try:
        # The import hook, and not this function, holds what `importing` holds: a user's own import goes that way too.
        with (
            interrupts.deferred(),
            third_party_output.quiet_import(),
            import_hook.installed(TORCH_TENSORRT, lambda: importing(flavour)),
        ):
            if TORCH_TENSORRT in sys.modules:
                with importing(flavour):
                    pass
            importlib.import_module("onnx.helper")  # by which plugin layers are seeded
            return importlib.import_module(TORCH_TENSORRT)
    except Exception as error:  # torch_tensorrt raises bare Exceptions
        what = f"torch_tensorrt {flavour.torch_tensorrt_version} does not import with {flavour.name} {flavour.version}"
        raise FlavourError(f"{what}: {error}; {flavour.kind.remedy}") from error
