"""Which TensorRT is installed, and what it can do.

`detect` only reads package metadata; `Flavour.trt` and `Flavour.torch_tensorrt` import TensorRT.
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
class FlavourTraits:
    """What all versions of a flavour have in common."""

    distributions: tuple[str, ...]  # any of these provides it
    torch_tensorrt: str  # the distribution of torch_tensorrt for it
    since: tuple[int, ...]  # the oldest version that bridge supports
    adds_plugins: bool  # INetworkDefinition.add_plugin_v3 exists; otherwise plugin layers are seeded
    builds_without_gpu: bool
    compiles_kernels: bool  # at run time, for the GPU that the engine runs on
    measures_tactics: bool  # of plugins, when an engine is built
    embeds_in_compatible_engines: bool  # plugin libraries, and only in version-compatible engines
    install: str
    install_newest: str | None = None  # the same for a newer torch, as a format of its version ("2.14")

    @property
    def remedy(self) -> str:
        """The command that installs it, with torch_tensorrt for the installed torch."""
        torch, (oldest, newest) = release(_version("torch") or "")[:2], _INSTALL_NEWEST
        if self.install_newest is None or torch < oldest:
            return self.install
        return self.install_newest.format(".".join(map(str, min(torch, newest))))


TRAITS = {
    "tensorrt": FlavourTraits(
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
        measures_tactics=True,
        embeds_in_compatible_engines=True,
        install="pip install torch-tensorrt tensorrt",
    ),
    "tensorrt_rtx": FlavourTraits(
        distributions=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings"),
        torch_tensorrt="torch-tensorrt-rtx",
        since=(1, 7),  # before 1.7 the ONNX parser, by which plugin layers are seeded, imports no IPluginV3
        adds_plugins=False,
        builds_without_gpu=True,
        compiles_kernels=True,
        measures_tactics=False,
        embeds_in_compatible_engines=False,
        install='pip install "torch-tensorrt-rtx==2.11.*" "tensorrt-rtx==1.7.1.116"',
        # Later torch-tensorrt-rtx require TensorRT-RTX before 1.7, so pip cannot resolve both at once.
        install_newest=(
            'pip install "tensorrt-rtx==1.7.1.116" dllist psutil; then pip install --no-deps "torch-tensorrt-rtx=={}.*"'
        ),
    ),
}

# The oldest and the newest torch whose torch-tensorrt-rtx install_newest installs.
_INSTALL_NEWEST = ((2, 12), (2, 14))


@dataclass(frozen=True)
class Flavour:
    """An installed TensorRT. `torch_tensorrt_version` is None if torch_tensorrt is not installed for it."""

    name: str
    version: str
    torch_tensorrt_version: str | None

    @property
    def traits(self) -> FlavourTraits:
        """What all versions of this flavour have in common."""
        return TRAITS[self.name]

    def trt(self) -> ModuleType:
        """TensorRT's Python module, imported on the first call."""
        return _import_trt(self)

    def torch_tensorrt(self) -> ModuleType:
        """torch_tensorrt, imported on the first call with the shims that its version needs.

        FlavourError: it is not installed for this flavour, or does not import.
        """
        return _import_torch_tensorrt(self)


def detect(name: str | None = None) -> Flavour:
    """The flavour that torch_tensorrt uses; without torch_tensorrt, the one that is installed.

    FlavourError: none is installed, it is not `name`, or it is too old. With BRIDGE_ANY_TENSORRT=1 in the environment,
    a version that is too old is a warning, once per process.
    """
    in_use = _flavour_in_use()
    if name is not None and name != in_use.name:
        raise FlavourError(
            f"flavour {name!r} is requested, but {in_use.name} {in_use.version} is in use here; in another environment,"
            f" {TRAITS[name].remedy}"
        )
    reason = unsupported(in_use)
    if reason and not _accepts_any():
        raise FlavourError(f"{reason}; {in_use.traits.remedy}; to try it all the same, set {ANY_VARIABLE}=1")
    if reason:
        log.warn_once(f"{reason}; used all the same, because {ANY_VARIABLE} is 1")
    return in_use


def unsupported(flavour: Flavour) -> str | None:
    """Why bridge does not support this version; None if it does."""
    if release(flavour.version) >= flavour.traits.since:
        return None
    oldest = ".".join(map(str, flavour.traits.since))
    return f"{flavour.name} {flavour.version} is too old: bridge needs {oldest} or later"


def _accepts_any() -> bool:
    text = os.environ.get(ANY_VARIABLE, "").strip()
    if text not in ("", "0", "1"):
        raise FlavourError(f"{ANY_VARIABLE} is {text!r}, expected 1 (accept any TensorRT) or 0")
    return text == "1"


def installed() -> list[Flavour]:
    """Every flavour that is installed, each with its own torch_tensorrt."""
    versions = {name: _first_version(traits.distributions) for name, traits in TRAITS.items()}
    return [
        Flavour(name, version, _version(TRAITS[name].torch_tensorrt))
        for name, version in versions.items()
        if version is not None
    ]


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 11, 0) for "2.11.0+cu130"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def same_release(a: str, b: str) -> bool:
    """Whether two versions of TensorRT run each other's engines: their first two numbers are the same."""
    return release(a)[:2] == release(b)[:2]


def _flavour_in_use() -> Flavour:
    flavours = {flavour.name: flavour for flavour in installed()}
    if not flavours:
        raise FlavourError("no TensorRT is installed; " + _install_text(TRAITS))
    # The distribution of torch_tensorrt decides which TensorRT it uses, whatever else is installed.
    named = [name for name in ("tensorrt_rtx", "tensorrt") if _version(TRAITS[name].torch_tensorrt) is not None]
    if not named:
        return next(iter(flavours.values()))
    if named[0] not in flavours:
        raise FlavourError(
            f"{TRAITS[named[0]].torch_tensorrt} is installed without {named[0]}; "
            + _install_text({named[0]: TRAITS[named[0]]})
        )
    return flavours[named[0]]


def _install_text(flavours: dict[str, FlavourTraits]) -> str:
    return "install " + ", or ".join(f"{name}: {traits.remedy}" for name, traits in flavours.items())


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
                f"{flavour.name} {flavour.version} does not import: {error}; {flavour.traits.remedy}"
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
    """The context in which torch_tensorrt is imported: with the shims of its version, and stand-ins for a missing GPU.

    FlavourError: TensorRT itself does not import.
    """
    with interrupts.deferred(), gpu.without_gpu(), _shims(flavour, version_shims.IMPORT):
        yield


@contextlib.contextmanager
def converting(flavour: Flavour) -> Iterator[None]:
    """The context of a conversion by bridge: with the shims that torch_tensorrt's converters need for it."""
    with version_shims.own_conversion(), _shims(flavour, version_shims.OWN_CONVERSION):
        yield


def registered(flavour: Flavour) -> contextlib.AbstractContextManager[None]:
    """The context while bridge is registered: with the shims that torch_tensorrt's own compile needs."""
    return _shims(flavour, version_shims.REGISTERED)


def _shims(flavour: Flavour, when: str) -> contextlib.AbstractContextManager[None]:
    version = release(flavour.torch_tensorrt_version or "")
    rows = [shim for shim in version_shims.shims_for(flavour.name, version) if when in shim.when]
    return version_shims.applied(rows, flavour.trt)


def _check_temporary_folder() -> None:
    """FlavourError: there is none. The import of torch_tensorrt needs it, and so does torch when it compiles."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise FlavourError(
            f"there is no folder for temporary files: {error}; set TMPDIR to a folder that can be written to"
        ) from error


@functools.cache
def _import_torch_tensorrt(flavour: Flavour) -> ModuleType:
    if flavour.torch_tensorrt_version is None:
        raise FlavourError(f"{flavour.traits.torch_tensorrt} is not installed; {flavour.traits.remedy}")
    flavour.trt()
    _check_temporary_folder()
    try:
        # The import hook enters `importing`, not this function: it also serves a user's own import.
        with (
            interrupts.deferred(),
            third_party_output.silence_import(),
            import_hook.installed(TORCH_TENSORRT, lambda: importing(flavour)),
        ):
            if TORCH_TENSORRT in sys.modules:
                with importing(flavour):
                    pass
            importlib.import_module("onnx.helper")  # by which plugin layers are seeded
            return importlib.import_module(TORCH_TENSORRT)
    except Exception as error:  # torch_tensorrt raises bare Exceptions
        what = f"torch_tensorrt {flavour.torch_tensorrt_version} does not import with {flavour.name} {flavour.version}"
        raise FlavourError(f"{what}: {error}; {flavour.traits.remedy}") from error
