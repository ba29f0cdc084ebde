"""Registers libraries of plugins with a TensorRT runtime."""

import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bridge.core.library import GENERATED, Library
from bridge.core.op import Op
from bridge.errors import LibraryError
from bridge.tensorrt.plugins.fields import TENSORS_FIELD, VERSION

_registered_files: dict[tuple[str, str], Path] = {}  # module of the runtime, library's key → what was registered
_ejected_files: set[Path] = set()  # of those, the ones that users may have changed
_loading = threading.Lock()


def register_plugins(trt: ModuleType, libraries: Iterable[Library]) -> None:
    """Makes the plugins of libraries known to `trt`: TensorRT, TensorRT-RTX or a lean runtime.

    Harmless for plugins that are registered already, by this function or by anything else, and are the same.

    Raises:
        LibraryError: a library is missing or broken, TensorRT does not load it, or other plugins of these names are
            registered already.
    """
    for library in libraries:
        # An op without a plugin, or with another signature than its plugin's, is refused where a model uses it; see
        # shape_rules.
        names = library.plugins().schemas.keys() & library.ops.keys() - library.problems.keys()
        load_library(trt, library, library.plugin_library(), {name: library.ops[name] for name in names})


def register_working_plugins(trt: ModuleType, libraries: Iterable[Library]) -> None:
    """Makes the plugins known of those of the libraries that have some, and work."""
    register_plugins(trt, [each for each in libraries if each.find("plugins") and "" not in each.problems])


def load_library(trt: ModuleType, library: Library, path: Path, ops: Mapping[str, Op]) -> None:
    """Makes the plugins in a file known to `trt`; ops: those of the library that have a plugin, by local name.

    LibraryError: see register_plugins.
    """
    with _loading:
        if not _registered(trt, library):
            _load(trt, library, path)
    _check_version(trt, library, path)
    registered = _registered(trt, library)
    differing = {name: op for name, op in ops.items() if registered.get(name) != _expected(op)}
    if differing:
        raise LibraryError(_conflict_text(trt, library, path, registered, differing))


def _load(trt: ModuleType, library: Library, path: Path) -> None:
    """Has TensorRT load a file, without those of its plugins that are registered and the same."""
    new = set()
    if library.key in GENERATED:
        plugins = library.plugins()
        taken = _taken(trt, library) if library.named_by_content else set()
        plugins.leave_out(taken)
        new = {f"{library.namespace}::{name}" for name in plugins.schemas.keys() - taken}
        GENERATED.update(new)
    if trt.get_plugin_registry().load_library(str(path)) is None:
        names = ", ".join(sorted(_taken(trt, library)))
        reason = f": {names} came from another library already" if names else ""
        raise LibraryError(f"{trt.__name__} {trt.__version__} did not load the plugin library {path}{reason}")
    _registered_files.update(((trt.__name__, key), path) for key in {library.key, *new})
    if new and not library.named_by_content:
        _ejected_files.add(path)


def _check_version(trt: ModuleType, library: Library, path: Path) -> None:
    """LibraryError: a generated plugin came from another file, and one of the two was ejected, and may be changed."""
    owner = _registered_files.get((trt.__name__, library.key))
    if library.key not in GENERATED or owner is None or owner == path:
        return
    if owner in _ejected_files or not library.named_by_content:
        raise LibraryError(
            f"{library.key} came from {owner} already, and {path} may have another version of it, for one of them was "
            "ejected: start a process that uses one of them"
        )


def _taken(trt: ModuleType, library: Library) -> set[str]:
    """Those of the plugins in a library's file that are registered from another one."""
    return {creator.name for creator in _creators(trt, library)} & library.plugins().schemas.keys()


def _creators(trt: ModuleType, library: Library) -> list[Any]:
    """Those of the plugins of a library's namespace that are registered in our version."""
    creators = [c for c in trt.get_plugin_registry().all_creators if c.plugin_version == VERSION]
    return [c for c in creators if getattr(c, "plugin_namespace", None) == library.namespace]


def _registered(trt: ModuleType, library: Library) -> dict[str, set[str]]:
    """The field names of every registered plugin that would be a library's, by name."""
    return {c.name: _field_names(c) for c in _creators(trt, library) if library.owns(c.name)}


def _field_names(creator: Any) -> set[str]:
    return {field.name for field in creator.field_names}


def _expected(op: Op) -> set[str]:
    return {attribute.name for attribute in op.attributes} | {TENSORS_FIELD}


def _conflict_text(
    trt: ModuleType, library: Library, path: Path, registered: dict[str, set[str]], differing: Mapping[str, Op]
) -> str:
    namespace, owner = library.namespace, _registered_files.get((trt.__name__, library.key))
    origin = (
        f"from {owner}" if owner is not None else f"by something other than bridge ({_candidates(namespace, path)})"
    )
    lines = [
        f"  {name}: {f'has fields {sorted(registered[name])}' if name in registered else 'is missing'},"
        f" expected fields {sorted(_expected(op))}"
        for name, op in sorted(differing.items())
    ]
    return (
        f"the plugins of {namespace} registered with {trt.__name__} {origin} are not those of {path}:\n"
        + "\n".join(lines)
        + "\nKeep one version of a plugin library in a process: unset LD_PRELOAD, load no second copy, or build it "
        "again."
    )


def _candidates(namespace: str, path: Path) -> str:
    """Other libraries in this process that may hold the namespace's plugins, going by their names."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    name = re.compile(rf"{namespace}[^/]*\.so")
    found = {line.split(maxsplit=5)[5] for line in lines if name.search(line.rpartition("/")[2])}
    return ", ".join(sorted(found - {str(path)})) or "no other file in this process looks like it"
