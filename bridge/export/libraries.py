"""The plugin libraries that an engine needs, as they are on this machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.base.files import sha256
from bridge.base.log import logger
from bridge.core.device_code import device_codes, is_compiled_fast, lacking_text
from bridge.core.library import Library
from bridge.engine_file import checks
from bridge.engine_file.contents import EngineFile
from bridge.errors import LibraryError
from bridge.generate import store

FOLDER = "plugins"
"""The folder of the libraries in an exported folder."""


@dataclass(frozen=True)
class PluginLibrary:
    """A library of plugins that an engine needs.

    path: on this machine. sha256: of its content. ops: the names of its plugins, without the namespace.
    origin: the package that it came from, with its version. file: its name in an exported folder, where each is unique.
    """

    namespace: str
    path: Path
    sha256: str
    ops: tuple[str, ...]
    origin: str
    file: str


def check_target(value: Any, what: str) -> None:
    """A compute capability, such as "sm86"."""
    checks.of_type(value, str, what)
    if re.fullmatch(r"sm\d{2,3}", value, re.ASCII) is None:
        checks.fail(what, value, "a compute capability such as sm86")


def libraries_of(file: EngineFile) -> list[PluginLibrary]:
    """The libraries that a host needs beside a plan, each once; those of generated plugins, too. None if it holds them.

    LibraryError: a library is missing, lacks a plugin, is not the one that the engine was built with, or has no code
    for the engine's target; the message says which. EngineFileError: the target is no compute capability.
    """
    check_target(file.target, "the engine's target")
    paths: dict[Path, Library] = {}
    for name in sorted(file.plugins) if not file.embeds_libraries else ():
        library = _library_with(file, name)
        paths.setdefault(library.plugin_library(), library)
    found = [_described(file, library, path) for path, library in paths.items()]
    return sorted(found, key=lambda each: each.file)


def _library_with(file: EngineFile, name: str) -> Library:
    store.restore(name, file.target)
    if lacking := store.lacking_text(name, file.metadata.get("generated", []), file.target):
        raise LibraryError(lacking)
    library = store.library_of(name)
    local_name = name.rpartition("::")[2]
    if local_name not in library.plugins().schemas:
        raise LibraryError(
            f"the engine needs the plugin {name}, which {library.plugin_library()} lacks: compile the model again"
        )
    return library


def _described(file: EngineFile, library: Library, path: Path) -> PluginLibrary:
    digest = sha256(path)
    if not library.named_by_content:
        _check_version(file, library, path, digest)
    if lacking := lacking_text(device_codes(path), file.target):
        raise LibraryError(f"{path} holds {lacking}, for which the engine was built: build the library for it")
    if is_compiled_fast(path):
        logger.warning(
            f"{path} was built with BRIDGE_FAST_COMPILE, so that its kernels are slow: build it without, to ship it"
        )
    ops = tuple(library.plugins().schemas)
    return PluginLibrary(library.namespace, path, digest, ops, library.origin, _file_name(library))


def _check_version(file: EngineFile, library: Library, path: Path, digest: str) -> None:
    """LibraryError: the file says that the engine was built with another version of a library."""
    for row in file.metadata.get("libraries", []):
        if row["namespace"] == library.namespace and row["sha256"] == digest:
            return
    expected = _expected(file, library)
    if expected is not None:
        raise LibraryError(
            f"the engine was built with {expected['file']} of {expected['origin']}, SHA-256 "
            f"{expected['sha256'][:12]}…; {path} of {library.origin} has {digest[:12]}…: compile the model again here, "
            "or install that version"
        )


def _expected(file: EngineFile, library: Library) -> Mapping[str, Any] | None:
    """What the file says of a library; None where it is older than that."""
    rows = file.metadata.get("libraries", [])
    return next((row for row in rows if row["namespace"] == library.namespace), None)


def _file_name(library: Library) -> str:
    """A name that no other library of the engine has: generated ones share a namespace, but no plugin."""
    if library.key == library.namespace:
        return library.file_name("plugins")
    return f"lib{library.namespace}_{library.key.rpartition('::')[2]}_plugins.so"
