"""Ops that a test defines: forgotten afterwards by bridge, though not by torch, so their names are used once."""

from collections.abc import Iterator
from contextlib import contextmanager

from bridge.core.foreign import FOREIGN
from bridge.core.library import GENERATED, LIBRARIES
from bridge.core.op import OPS


@contextmanager
def forgotten() -> Iterator[None]:
    """Ops and libraries that are defined within it are unknown after it."""
    ops, namespaces, bound = set(OPS), set(LIBRARIES), set(FOREIGN)
    try:
        yield
    finally:
        for name in OPS.keys() - ops - GENERATED:  # a generated op is one of its process
            op = OPS.pop(name)
            op.library.ops.pop(op.local_name)
        for name in FOREIGN.keys() - bound:
            del FOREIGN[name]
        for namespace in LIBRARIES.keys() - namespaces:
            del LIBRARIES[namespace]
