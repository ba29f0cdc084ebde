"""Libraries of generated plugins in folders of the user's, to ship with engines."""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from bridge.base.files import replacing
from bridge.errors import LibraryError
from bridge.generate import folders
from bridge.generate.build import build_anew, namespace_of
from bridge.generate.folders import DESCRIPTION, Generated
from bridge.generate.program import Instance

_SOURCES = "sources"


def ship(
    instances: Iterable[Instance], targets: Sequence[str], output: Path, *, sources: bool = False
) -> list[Generated]:
    """Builds a library for each namespace, and writes it with its library.json.

    A library goes to `output` itself if it is the only one, else to a folder in it that is called like its namespace.

    Args:
        targets: GPUs to compile for, such as ["sm86", "sm120"].
        sources: also write the op structs and their kernels, for `bridge eject`.
    Raises:
        LibraryError: a folder holds something else, or cannot be written to.
        BuildError, UnsupportedOpError, TargetError: see `build`.
    """
    found = {name: list(group) for name, group in groupby(sorted(instances, key=namespace_of), key=namespace_of)}
    places = {name: output if len(found) == 1 else output / name for name in found}
    for namespace, folder in places.items():
        _check(folder, namespace)
    return [_ship(found[name], targets, folder, sources) for name, folder in places.items()]


def _check(folder: Path, namespace: str) -> None:
    """LibraryError: what is in the folder is no library of the namespace, which a new one may replace."""
    description = folder / DESCRIPTION
    if folder.exists() and not folder.is_dir():
        raise LibraryError(f"{folder} is no folder")
    if not description.exists():
        if (folder / _SOURCES).exists():
            raise LibraryError(f"{folder} has a folder {_SOURCES!r} already, of something else: name another folder")
        return
    try:
        held = folders.read(folder).namespace
    except (OSError, ValueError) as error:
        raise LibraryError(f"{error}; name another folder") from error
    if held != namespace:
        raise LibraryError(f"{folder} holds a library of {held}, not of {namespace}: name another folder")


def _ship(instances: Sequence[Instance], targets: Sequence[str], folder: Path, sources: bool) -> Generated:
    with tempfile.TemporaryDirectory(prefix="bridge-") as temporary:
        new = Path(temporary) / "library"
        build_anew(instances, targets, new)
        built = folders.read(new)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder / _SOURCES, ignore_errors=True)
            for path in (built.library, new / DESCRIPTION):
                with replacing(folder / path.name) as file:
                    file.write(path.read_bytes())
            if sources:
                shutil.copytree(new / _SOURCES, folder / _SOURCES)
        except OSError as error:
            raise LibraryError(f"the library of {built.namespace} cannot be written to {folder}: {error}") from error
    return folders.read(folder)
