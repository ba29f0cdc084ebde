"""Registers the plugin library with a TensorRT runtime."""

from pathlib import Path
from types import ModuleType
from typing import Any

from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import LibraryError
from bridge.tensorrt.plugins.fields import NAMESPACE, TENSORS_FIELD, VERSION

_loaded: dict[str, Path] = {}  # name of the runtime's module → the library that this process registered with it


def load_library(trt: ModuleType, path: Path) -> None:
    """Makes the ops of the plugin library at `path` known to `trt`: TensorRT, TensorRT-RTX or a lean runtime.

    Harmless when they are registered already, by this function or by anything else, and are the same ops.

    Raises:
        LibraryError: TensorRT does not load the library, or other plugins of these names are registered already.
    """
    registered = _registered(trt)
    if not registered:
        if trt.get_plugin_registry().load_library(str(path)) is None:
            raise LibraryError(f"{trt.__name__} {trt.__version__} did not load the plugin library {path}")
        _loaded[trt.__name__] = path
        registered = _registered(trt)
    # An op of someone's own, for which there is no plugin, is refused where a model uses it; see shape_rules.
    names = [name for name in libraries.plugin_schemas() if name in OPS]
    differences = [name for name in names if registered.get(name) != _expected(name)]
    if differences:
        raise LibraryError(_conflict(trt, path, registered, differences))


def _registered(trt: ModuleType) -> dict[str, set[str]]:
    """The field names of every plugin of our namespace and version, by name."""
    creators = trt.get_plugin_registry().all_creators
    ours = [c for c in creators if getattr(c, "plugin_namespace", None) == NAMESPACE and c.plugin_version == VERSION]
    return {creator.name: _field_names(creator) for creator in ours}


def _field_names(creator: Any) -> set[str]:
    return {field.name for field in creator.field_names}


def _expected(name: str) -> set[str]:
    return {attribute.name for attribute in OPS[name].attributes} | {TENSORS_FIELD}


def _conflict(trt: ModuleType, path: Path, registered: dict[str, set[str]], names: list[str]) -> str:
    owner = _loaded.get(trt.__name__)
    origin = f"from {owner}" if owner is not None else f"by something other than bridge ({_candidates(path)})"
    lines = [
        f"  {name}: {f'has fields {sorted(registered[name])}' if name in registered else 'is missing'},"
        f" expected fields {sorted(_expected(name))}"
        for name in names
    ]
    return (
        f"the plugins registered with {trt.__name__} {origin} are not those of {path}:\n" + "\n".join(lines) + "\n"
        "Keep one plugin library in a process: unset LD_PRELOAD, load no second copy, or build bridge again."
    )


def _candidates(path: Path) -> str:
    """Other libraries in this process that may be bridge's, going by their names."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    found = {line.split(maxsplit=5)[5] for line in lines if "bridge" in line.rpartition("/")[2] and ".so" in line}
    return ", ".join(sorted(found - {str(path)})) or "no other file in this process looks like it"
