"""What the networks held that torch_tensorrt built engines of in this process, found again by the engine's bytes."""

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch.fx import GraphModule

Layers = list[dict[str, Any]]

_PASSES = "bridge_passes"  # in the metadata of a module
_MOST = 64  # engines; the oldest is forgotten first
_lock = threading.Lock()
_known: OrderedDict[str, Layers] = OrderedDict()
_thread = threading.local()


@contextlib.contextmanager
def listening() -> Iterator[list[bytes]]:
    """Within it the engines that this thread makes are added to the list it gives."""
    engines: list[bytes] = []
    listeners: list[list[bytes]] = _thread.__dict__.setdefault("listeners", [])
    listeners.append(engines)
    try:
        yield engines
    finally:
        listeners[:] = [other for other in listeners if other is not engines]


def note(layers: Layers | None) -> None:
    """Says what the network holds that this thread is about to build."""
    _thread.layers = layers


def keep(engine: bytes) -> None:
    """Says that this thread's latest network became this engine; `note(None)` before means that there was none."""
    layers = getattr(_thread, "layers", None)
    note(None)
    for listener in getattr(_thread, "listeners", ()):
        listener.append(engine)
    if layers is None:
        return
    with _lock:
        _known[_key(engine)] = layers
        _known.move_to_end(_key(engine))
        while len(_known) > _MOST:
            _known.popitem(last=False)


def note_passes(module: GraphModule, rows: list[dict[str, Any]]) -> None:
    """Says what graph rewrites found in a module, or in the one that it was made from."""
    module.meta[_PASSES] = rows


def passes_of(module: GraphModule) -> list[dict[str, Any]]:
    """What `note_passes` said of a module."""
    found = module.meta.get(_PASSES)
    return found if isinstance(found, list) else []


def find(engine: bytes) -> Layers | None:
    """The layers of the network that an engine was built from; None for one that this process did not build, or built
    long ago."""
    with _lock:
        return _known.get(_key(engine))


def _key(engine: bytes) -> str:
    return hashlib.sha256(engine).hexdigest()
