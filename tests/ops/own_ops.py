"""Ops that a test defines: forgotten afterwards by bridge, though not by torch, so their names are used once."""

from collections.abc import Iterator
from contextlib import contextmanager

from bridge.core.foreign import FOREIGN
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS


@contextmanager
def forgotten() -> Iterator[None]:
    """Ops and libraries that are defined within it are unknown after it."""
    ops, namespaces, bound = set(OPS), set(LIBRARIES), set(FOREIGN)
    try:
        yield
    finally:
        for name in OPS.keys() - ops:
            op = OPS.pop(name)
            LIBRARIES[op.namespace].ops.pop(op.local_name)
        for name in FOREIGN.keys() - bound:
            del FOREIGN[name]
        for namespace in LIBRARIES.keys() - namespaces:
            del LIBRARIES[namespace]
