"""Tables of the nodes of the model's graph and the layers that they became."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridge.base.text import columns
from bridge.engine_file.contents import EngineFile

_MOST_MODULES = 40  # rows of the table of modules; they limit its depth
_DEEPEST = 32  # parts of a module's path that count
_WITHOUT_LAYERS = ("placeholder", "get_attr", "output")
_COUNTS = ("nodes", "layers", "plugin layers")
_UNKNOWN = "this file does not say which node became which layers; compile the model again"


def nodes(file: EngineFile) -> list[dict[str, Any]] | None:
    """Every node with "name", "op", "module" and "layers"; None where an older bridge wrote the file."""
    rows = file.metadata.get("nodes")
    return rows if isinstance(rows, list) else None


def plugin_counts(layers: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many of an engine's layers are plugins, of each bridge op."""
    return Counter(layer["op"] for layer in layers if layer.get("op"))


def modules(file: EngineFile) -> list[dict[str, Any]]:
    """The model's modules in order, with their "nodes", "layers" and "plugin_layers" in numbers."""
    shown = _listed(nodes(file) or [])
    depth = _depth([node["module"] for node in shown])
    members: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for node in shown:
        members[_prefix(node["module"], depth)].append(node)
    plugins = {layer["name"] for layer in file.layers if layer.get("op")}
    return [_count(path, group, plugins) for path, group in members.items()]


def modules_text(file: EngineFile) -> str:
    """The modules as text; "" where the file has no nodes."""
    rows = [_cells(row) for row in modules(file)]
    return columns([(f"modules: {len(rows)}", *_COUNTS), *rows], indent=0, heading=True) if rows else ""


def _cells(row: Mapping[str, Any]) -> list[str]:
    path, *counts = row.values()
    cells = [str(count).rjust(len(title)) for count, title in zip(counts, _COUNTS, strict=True)]
    return [f"  {path or '(the model itself)'}", *cells]


def nodes_text(file: EngineFile) -> str:
    """The nodes that compute, each with its operator, its module and the kinds of its layers."""
    listed = nodes(file)
    if listed is None:
        return f"nodes: {_UNKNOWN}"
    kinds = {layer["name"]: layer_kind(layer) for layer in file.layers}
    rows = [
        (f"  {node['name']}", node["op"], node["module"], _kinds_text(node["layers"], kinds))
        for node in _listed(listed)
    ]
    return columns([(f"nodes: {len(rows)}", "operator", "module", "layers"), *rows], indent=0, heading=True)


def layer_kind(layer: Mapping[str, Any]) -> str:
    """TensorRT's type of a layer, or the op of a plugin layer."""
    return f"plugin {layer['op']}" if layer.get("op") else str(layer["type"])


def _kinds_text(names: Sequence[str], kinds: Mapping[str, str]) -> str:
    counts = Counter(kinds.get(name, "unknown") for name in names)
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in counts.items()) or "no layer"


def _listed(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [node for node in rows if node["layers"] or node["op"] not in _WITHOUT_LAYERS]


def _depth(paths: Sequence[str]) -> int:
    """The greatest depth of module paths that gives few enough modules, at least 1."""
    deepest = min(max((path.count(".") + 1 for path in paths), default=1), _DEEPEST)
    fitting = [d for d in range(1, deepest + 1) if len({_prefix(path, d) for path in paths}) <= _MOST_MODULES]
    return max(fitting, default=1)


def _prefix(path: str, depth: int) -> str:
    return ".".join(path.split(".", depth)[:depth])


def _count(path: str, group: Sequence[Mapping[str, Any]], plugins: set[str]) -> dict[str, Any]:
    layers = [name for node in group for name in node["layers"]]
    return {
        "module": path,
        "nodes": len(group),
        "layers": len(layers),
        "plugin_layers": sum(name in plugins for name in layers),
    }
