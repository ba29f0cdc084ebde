"""Checks an engine file or an exported folder, its libraries and this machine, and changes nothing.

Of a folder nothing is loaded or run. For an engine file, the libraries that are installed here are loaded, as a run
would load them; what the file holds is not run. A check says whether things are as they were written, not by whom.
"""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bridge.base.files import sha256
from bridge.core.device_code import device_codes, lacking_text
from bridge.engine_file.contents import EngineFile
from bridge.errors import BridgeError, EngineError, EngineFileError, FlavourError, LibraryError
from bridge.export import manifest
from bridge.export.libraries import FOLDER, libraries_of
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import detect, same_release


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. error: what is wrong, or None. detail: what was found."""

    name: str
    detail: str
    error: BridgeError | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.error is None


def verify(path: Path, *, machine: bool = True) -> list[Check]:
    """The checks of an engine file, or of a folder that `bridge export` wrote. It raises nothing of what it finds.

    machine: whether this machine's TensorRT and GPU are asked, too.
    """
    return list(_folder_checks(path, machine) if path.is_dir() else _file_checks(path, machine))


def _checked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, look())
    except BridgeError as error:
        return Check(name, str(error), error)
    except OSError as error:
        unreadable = EngineFileError(f"cannot read {error.filename}: {error.strerror}")
        return Check(name, str(unreadable), unreadable)


def _file_checks(path: Path, machine: bool) -> Iterator[Check]:
    try:
        file = EngineFile.load(path)
    except EngineFileError as error:
        yield Check("file", str(error), error)
        return
    yield Check("file", f"{path}: whole, {len(file.engine):,} bytes of engine for {file.target}")
    yield _checked("libraries", lambda: _libraries_text(file))
    if machine:
        yield from _machine_checks(file.flavour, file.tensorrt_version, file.target)


def _libraries_text(file: EngineFile) -> str:
    found = [f"{each.file} ({each.origin})" for each in libraries_of(file)]
    return ", ".join(found) or "none needed"


def _folder_checks(folder: Path, machine: bool) -> Iterator[Check]:
    try:
        described = manifest.read(folder)
    except EngineFileError as error:
        yield Check("manifest", str(error), error)
        return
    yield Check("manifest", f"{folder / manifest.NAME}: for {described['target']}")
    engine = described["engine"]
    yield _checked("plan", lambda: _whole(folder, engine, EngineFileError))
    for row in manifest.native_files(described):
        yield _checked("library", partial(_library, folder, row, described["target"]))
    yield _checked("other files", lambda: _strangers(folder, described))
    if machine:
        yield _checked("processor", lambda: _processor(described["machine"]))
        yield from _machine_checks(described["flavour"], described["tensorrt"], described["target"])


def _whole(folder: Path, row: Mapping[str, Any], kind: type[BridgeError]) -> str:
    path = folder / row["file"]
    if not path.is_file() or path.is_symlink():
        raise kind(f"{path} is missing: copy the folder again")
    found = sha256(path)
    if found != row["sha256"]:
        raise kind(
            f"{path} is damaged or another one: its SHA-256 is {found[:12]}…, the manifest says {row['sha256'][:12]}…"
        )
    return f"{path.name}: whole, {path.stat().st_size:,} bytes"


def _library(folder: Path, row: Mapping[str, Any], target: str) -> str:
    text = _whole(folder, row, LibraryError)
    if lacking := lacking_text(device_codes(folder / row["file"]), target):
        raise LibraryError(f"{row['file']} holds {lacking}: export the engine where the library has code for it")
    return text


def _strangers(folder: Path, described: Mapping[str, Any]) -> str:
    """LibraryError: a library lies there that the manifest does not name, which would be loaded with the others."""
    known = {row["file"] for row in manifest.native_files(described)}
    found = [f"{FOLDER}/{path.name}" for path in sorted((folder / FOLDER).glob("*"))]
    if strange := [name for name in found if name not in known]:
        raise LibraryError(f"the manifest does not name {', '.join(strange)}, which hosts may load: remove it")
    return "none"


def _processor(machine: str) -> str:
    if machine != platform.machine():
        raise LibraryError(f"the libraries are for {machine}; this machine is {platform.machine()}")
    return machine


def _machine_checks(flavour: str, version: str, target: str) -> Iterator[Check]:
    yield _checked("TensorRT", lambda: _tensorrt(flavour, version))
    yield _checked("GPU", lambda: _gpu(target))


def _tensorrt(flavour: str, version: str) -> str:
    found = detect()
    if found.name != flavour or not same_release(found.version, version):
        raise FlavourError(f"the engine needs {flavour} {version}; installed here is {found.name} {found.version}")
    return f"{found.name} {found.version}"


def _gpu(target: str) -> str:
    current = gpu.current_target()
    if current is None:
        raise EngineError(f"there is no GPU here; the engine needs {target}")
    if current != target:
        raise EngineError(f"the engine is for {target}; the GPU here, {gpu.name_of(current)}, is {current}")
    return f"{gpu.name_of(current)}, {current}"
