"""bridge.load_ops: native libraries built where their sources are, for quick turns on a kernel."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bridge.core.library import LIBRARIES, Library
from bridge.core.signature import NAMESPACE_PATTERN
from bridge.errors import LibraryError
from bridge.toolchain.cmake_build import Sources, build

_ADD_OPS = re.compile(r"^\s*bridge_add_ops\s*\(\s*([A-Za-z0-9_]+)", re.MULTILINE)
_BUILT = re.compile(rf"lib({NAMESPACE_PATTERN})_plugins\.so")


def load_ops(
    path: str | os.PathLike[str], namespace: str | None = None, *, targets: Sequence[str] | None = None
) -> Library:
    """Builds the native libraries of ops from their sources, and uses them in this process; cached.

    A build takes up where the last one ended: it compiles what changed, headers included, and takes milliseconds where
    nothing did. Ops may be defined before or after the call. A process holds one version of a library: after a change
    of the sources call it in a new process.

    Args:
        path: a folder whose CMakeLists.txt calls bridge_add_ops; a folder of .cu files, or one such file; or a folder
            that holds libraries which are built already.
        namespace: of the ops; needed for .cu files alone.
        targets: GPUs to compile for, such as ["sm86", "sm120"]; None: those of BRIDGE_CUDA_ARCHITECTURES, else those
            of this machine, else compute capability 8.0 with PTX, which later GPUs run, too.
    Returns:
        The library: its ops, and where its files are.
    Raises:
        LibraryError: there are no sources; a tool is missing; the sources do not compile, with the compiler's errors by
            file and line; their ops do not match those in Python; or the process has loaded another version.
    """
    place = Path(path).expanduser().resolve()
    if namespace is not None and not re.fullmatch(NAMESPACE_PATTERN, namespace):
        raise LibraryError(f"the namespace is {namespace!r}, expected a name such as acme: lower case, digits, _")
    built = _built_namespaces(place)
    if built:
        name, folder = _choose(place, namespace, built, "holds the built library of"), place
    else:
        sources = _sources(place, namespace)
        folder = build(sources, None if targets is None else tuple(targets))
        name = sources.namespace
    library = LIBRARIES.get(name) or LIBRARIES.setdefault(name, Library(name))
    library.build_in_place(folder)
    _check_names(library)
    return library


def _built_namespaces(place: Path) -> list[str]:
    names = sorted(place.glob("lib*_plugins.so")) if place.is_dir() else []
    return [match[1] for name in names if (match := _BUILT.fullmatch(name.name))]


def _sources(place: Path, namespace: str | None) -> Sources:
    """What is to be built at a path. LibraryError: nothing is."""
    if not place.exists():
        raise LibraryError(f"{place} does not exist: expected a folder of sources, or a .cu file")
    lists = place / "CMakeLists.txt"
    if lists.is_file() and (found := _ADD_OPS.findall(lists.read_text(errors="replace"))):
        return Sources(_choose(place, namespace, found, "has bridge_add_ops of"), place)
    files = [place] if place.is_file() else sorted(place.rglob("*.cu"))
    if not files or files[0].suffix != ".cu":
        raise LibraryError(f"{place} has no .cu file, and no CMakeLists.txt that calls bridge_add_ops")
    if namespace is None:
        raise LibraryError(f'{place}: of which namespace are the ops? Say load_ops(path, "acme")')
    return Sources(namespace, place, tuple(files))


def _choose(place: Path, wanted: str | None, there: Sequence[str], what: str) -> str:
    """The namespace that is wanted, or the only one. LibraryError: it is not there, or there are several."""
    if wanted in there:
        return str(wanted)
    if wanted is None and len(there) == 1:
        return there[0]
    problem = f"not of {wanted}" if wanted else "so give load_ops the namespace"
    raise LibraryError(f"{place} {what} {', '.join(there)}, {problem}")


def _check_names(library: Library) -> None:
    """That no op lacks a plugin while a plugin lacks an op: then one is misspelt. LibraryError: so it is."""
    if library.find("plugins") is None:
        return
    schemas = library.plugins().schemas
    if not schemas:
        raise LibraryError(
            f"{library.plugin_library()} registers no op: each op struct needs a line such as "
            "`bridge::Register<Corr> const corr;` behind it"
        )
    ops, plugins = library.ops.keys() - schemas.keys(), schemas.keys() - library.ops.keys()
    if ops and plugins:
        name = min(plugins)
        close = (difflib.get_close_matches(name, ops) or sorted(ops))[0]
        raise LibraryError(
            f'an op struct has the name "{name}", and no op is called {library.namespace}::{name}; the op '
            f"{library.namespace}::{close} has no kernel: give both one name"
        )
