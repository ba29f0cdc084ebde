"""The key under which an engine is cached: it covers all that the engine depends on.

Nothing here depends on the process: no memory address, no order of a set, no hash of Python's.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from bridge.base.package import __version__, folders
from bridge.core import libraries
from bridge.engine.code_key import NoKeyError
from bridge.graph.model_source import module_path
from bridge.tensorrt.install.flavour import Flavour

_CHUNK = 64 << 20  # bytes of a tensor that are brought from a GPU at a time


def engine_key(graph: Graph, constants: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """The SHA-256, in hexadecimal, of a graph, its constants and whatever else an engine depends on.

    graph: every node with its arguments, and what it gives. constants: tensors by name, with their values.
    parts: JSON values, dataclasses and torch's dtypes, devices and the like, nested.
    NoKeyError: one of them is something else.
    """
    digest = hashlib.sha256()
    for text in (_spell(dict(parts)), *_spell_graph(graph)):
        digest.update(text.encode() + b"\n")
    for name in sorted(constants):
        _add_constant(digest, name, constants[name])
    return digest.hexdigest()


def environment(flavour: Flavour) -> dict[str, str]:
    """What an engine depends on beside the model: the versions of what builds it, down to the contents of files."""
    library = libraries.plugin_library()
    return {
        "bridge": __version__,
        "sources": _sources(),
        "plugins": _file_digest(library, library.stat().st_mtime_ns, library.stat().st_size),
        "torch": torch.__version__,
        "torch_tensorrt": str(flavour.torch_tensorrt_version),
        "flavour": flavour.name,
        "tensorrt": flavour.version,
    }


@functools.cache
def _sources() -> str:
    """Of bridge's own code, so that an engine that older code built is not taken for one of this."""
    digest = hashlib.sha256()
    for folder in folders():
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _file_digest(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _spell_graph(graph: Graph) -> Iterator[str]:
    places = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        name = node.name if node.op in ("placeholder", "get_attr") else ""
        parts = (node.op, name, _target(node), node.args, node.kwargs, node.meta.get("val"), module_path(node))
        yield _spell(parts, places)


def _target(node: Node) -> str:
    """What a node calls, reads or is called."""
    if isinstance(node.target, (str, torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return str(node.target)
    return f"{node.target.__module__}.{node.target.__qualname__}"


def _spell(value: Any, places: Mapping[Node, int] | None = None) -> str:
    """A value as text: different for different values, the same in every process."""
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
            return _spell_tensor(value)
        case torch.SymInt() | torch.SymFloat() | torch.SymBool():
            return f"symbol:{value.node.expr}"
        case torch.dtype() | torch.layout() | torch.memory_format() | torch.device():
            return str(value.type if isinstance(value, torch.device) else value)
        case tuple() | list():
            items = ", ".join(_spell(item, places) for item in value)
            return f"({items})" if isinstance(value, tuple) else f"[{items}]"
        case slice():
            return f"slice{_spell((value.start, value.stop, value.step), places)}"
        case Mapping():
            pairs = sorted((_spell(key, places), _spell(item, places)) for key, item in value.items())
            return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
        case GraphModule():
            return "graph<" + "\n".join(_spell_graph(value.graph)) + ">"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}{_spell(asdict(value), places)}"
    raise NoKeyError(f"{value!r} of type {type(value).__name__} has no stable spelling")


def _spell_tensor(tensor: Tensor) -> str:
    """Of a tensor that a node gives: its type, not its values."""
    return f"tensor<{tensor.dtype} {_spell(tuple(tensor.shape))} {tensor.device.type}>"


def _add_constant(digest: Any, name: str, value: Any) -> None:
    if isinstance(value, GraphModule):
        digest.update(f"{name} {_spell(value)}\n".encode())
        return
    if (
        not isinstance(value, Tensor)
        or isinstance(value, torch._subclasses.FakeTensor)
        or value.layout != torch.strided
    ):
        raise NoKeyError(f"the constant {name} is no dense tensor with values but {type(value).__name__}")
    digest.update(f"{name} {_spell_tensor(value)}\n".encode())
    data = value.detach().contiguous().flatten()
    step = max(1, _CHUNK // data.element_size())
    for start in range(0, data.numel(), step):
        chunk = data[start : start + step].cpu().view(torch.uint8)
        digest.update(chunk.numpy().data)
