"""Layers of the networks that torch_tensorrt built engines from in this process, by the engine's bytes."""

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch.fx import GraphModule

Layers = list[dict[str, Any]]

_PASSES = "bridge_passes"  # in the metadata of a module
_MAX_ENGINES = 64  # the oldest is dropped first
_lock = threading.Lock()
_known: OrderedDict[str, Layers] = OrderedDict()
_thread = threading.local()


@contextlib.contextmanager
def collecting_engines() -> Iterator[list[bytes]]:
    """Yields a list, to which the engines that this thread builds are appended."""
    engines: list[bytes] = []
    listeners: list[list[bytes]] = _thread.__dict__.setdefault("listeners", [])
    listeners.append(engines)
    try:
        yield engines
    finally:
        listeners[:] = [listener for listener in listeners if listener is not engines]


def set_layers(layers: Layers | None) -> None:
    """Sets the layers of the network that this thread is about to build; None: they are unknown."""
    _thread.layers = layers


def record_engine(engine: bytes) -> None:
    """Records an engine of this thread, with the layers set before its build, if any."""
    layers = getattr(_thread, "layers", None)
    set_layers(None)
    for listener in getattr(_thread, "listeners", ()):
        listener.append(engine)
    if layers is None:
        return
    with _lock:
        _known[_key(engine)] = layers
        _known.move_to_end(_key(engine))
        while len(_known) > _MAX_ENGINES:
            _known.popitem(last=False)


def record_passes(module: GraphModule, rows: list[dict[str, Any]]) -> None:
    """Records what graph rewrites did to a module, or to the one that it was made from."""
    module.meta[_PASSES] = rows


def passes_of(module: GraphModule) -> list[dict[str, Any]]:
    """What `record_passes` recorded for a module."""
    rows = module.meta.get(_PASSES)
    return rows if isinstance(rows, list) else []


def layers_of(engine: bytes) -> Layers | None:
    """The layers of the network that an engine was built from; None if this process did not build it, or dropped it."""
    with _lock:
        return _known.get(_key(engine))


def _key(engine: bytes) -> str:
    return hashlib.sha256(engine).hexdigest()
