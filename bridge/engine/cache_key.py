"""The key under which an engine is cached; it covers everything that the engine depends on.

It is the same in every process: it holds no memory address, no order of a set and no hash() value.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from bridge.base.files import sha256
from bridge.base.package import __version__, folders
from bridge.core.library import Library
from bridge.engine.code_key import NoKeyError
from bridge.graph.model_source import module_path
from bridge.tensorrt.install.flavour import Flavour

_CHUNK = 64 << 20  # bytes of a tensor that are copied from a GPU at a time


def engine_key(graph: Graph, constants: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """The SHA-256, in hexadecimal, of a graph, its constants and whatever else an engine depends on.

    graph: every node with its arguments and the type of its result. constants: tensors by name, with their values.
    parts: JSON values, dataclasses and torch's dtypes, devices and the like, nested.
    NoKeyError: one of them has no text that is the same in every process.
    """
    digest = hashlib.sha256()
    for text in (_canonical_text(dict(parts)), *_graph_text(graph)):
        digest.update(text.encode() + b"\n")
    for name in sorted(constants):
        _add_constant(digest, name, constants[name])
    return digest.hexdigest()


def build_environment(flavour: Flavour, libraries: Iterable[Library]) -> dict[str, Any]:
    """The versions of all that builds an engine, with digests of bridge's sources and of the plugin libraries used."""
    return {
        "bridge": __version__,
        "sources": _sources_digest(),
        "plugins": {each.key: _plugins_digest(each) for each in libraries},
        "torch": torch.__version__,
        "torch_tensorrt": str(flavour.torch_tensorrt_version),
        "flavour": flavour.name,
        "tensorrt": flavour.version,
    }


@functools.cache
def _sources_digest() -> str:
    """A digest of bridge's own code: other code may build another engine."""
    digest = hashlib.sha256()
    for folder in folders():
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _plugins_digest(library: Library) -> str:
    path = library.find("plugins")
    return "" if path is None else sha256(path)


def _graph_text(graph: Graph) -> Iterator[str]:
    places = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        name = node.name if node.op in ("placeholder", "get_attr") else ""
        parts = (node.op, name, _target(node), node.args, node.kwargs, node.meta.get("val"), module_path(node))
        yield _canonical_text(parts, places)


def _target(node: Node) -> str:
    """The name of what a node calls or reads, or its own."""
    if isinstance(node.target, (str, torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return str(node.target)
    return f"{node.target.__module__}.{node.target.__qualname__}"


def _canonical_text(value: Any, places: Mapping[Node, int] | None = None) -> str:
    """A value as text that is unique to the value and the same in every process."""
    match value:
        case Node():
            return f"%{(places or {})[value]}"
        case None | bool() | int() | str() | bytes():
            return f"{type(value).__name__}:{json.dumps(value) if isinstance(value, str) else value!r}"
        case float():
            return f"float:{value.hex() if math.isfinite(value) else value}"
        case complex():
            return f"complex:{value.real.hex()},{value.imag.hex()}"
        case Tensor():
            return _tensor_type_text(value)
        case torch.SymInt() | torch.SymFloat() | torch.SymBool():
            return f"symbol:{value.node.expr}"
        case torch.dtype() | torch.layout() | torch.memory_format() | torch.device():
            return str(value.type if isinstance(value, torch.device) else value)
        case tuple() | list():
            items = ", ".join(_canonical_text(item, places) for item in value)
            return f"({items})" if isinstance(value, tuple) else f"[{items}]"
        case slice():
            return f"slice{_canonical_text((value.start, value.stop, value.step), places)}"
        case Mapping():
            pairs = sorted((_canonical_text(key, places), _canonical_text(item, places)) for key, item in value.items())
            return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
        case GraphModule():
            return "graph<" + "\n".join(_graph_text(value.graph)) + ">"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}{_canonical_text(asdict(value), places)}"
    raise NoKeyError(f"{value!r} of type {type(value).__name__} has no stable spelling")


def _tensor_type_text(tensor: Tensor) -> str:
    """The type of a tensor: dtype, shape and device, not its values."""
    return f"tensor<{tensor.dtype} {_canonical_text(tuple(tensor.shape))} {tensor.device.type}>"


def _add_constant(digest: Any, name: str, value: Any) -> None:
    if isinstance(value, GraphModule):
        digest.update(f"{name} {_canonical_text(value)}\n".encode())
        return
    if (
        not isinstance(value, Tensor)
        or isinstance(value, torch._subclasses.FakeTensor)
        or value.layout != torch.strided
    ):
        raise NoKeyError(f"the constant {name} is no dense tensor with values but {type(value).__name__}")
    digest.update(f"{name} {_tensor_type_text(value)}\n".encode())
    data = value.detach().contiguous().flatten()
    step = max(1, _CHUNK // data.element_size())
    for start in range(0, data.numel(), step):
        chunk = data[start : start + step].cpu().view(torch.uint8)
        digest.update(chunk.numpy().data)
