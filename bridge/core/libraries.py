"""The libraries of this process: installed ones, and what their native halves say of an op."""

import ctypes
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from bridge.core.library import ENTRY_POINTS, LIBRARIES, Library
from bridge.core.op import OPS, Op, written
from bridge.core.signature import NAMESPACE
from bridge.errors import BridgeError, LibraryError

BROKEN: dict[str, str] = {}
"""Installed libraries that do not import: why, by namespace."""

_loaded: set[str] = set()


def plugin_library(namespace: str = NAMESPACE) -> Path:
    """Path of the plugin library of a namespace.

    Raises:
        LibraryError: it is not there.
    """
    return library(namespace).plugin_library()


def library(namespace: str) -> Library:
    """The library of a namespace; an installed package that is not imported yet is imported.

    Raises:
        LibraryError: there is none, or its package does not import; the message says which.
    """
    if namespace not in LIBRARIES:
        load_installed(namespace)
    if namespace not in LIBRARIES:
        if namespace in BROKEN:
            raise LibraryError(f"the library {namespace} does not import: {BROKEN[namespace]}")
        raise LibraryError(
            f"there is no library {namespace}; there are {', '.join(sorted(LIBRARIES))}. Install the package that has "
            f"its ops (an entry point of the group {ENTRY_POINTS} makes it known), import it, or call bridge.load_ops"
        )
    return LIBRARIES[namespace]


def load_installed(namespace: str | None = None) -> None:
    """Imports every installed package that has an entry point of the group ``bridge.ops``, or that of one namespace.

    Each is tried once. One that does not import is left out, with a warning, and `BROKEN` says why: it must not stop
    what does not use it.
    """
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.name in _loaded or namespace not in (None, point.name):
            continue
        _loaded.add(point.name)
        try:
            point.load()
        except Exception as error:
            BROKEN[point.name] = f"{type(error).__name__}: {error} (entry point {point.name} = {point.value})"
            warnings.warn(f"the library {point.name} does not import: {BROKEN[point.name]}", stacklevel=2)
            continue
        if point.name not in LIBRARIES:
            BROKEN[point.name] = f"{point.value} imports, and defines no op of the namespace {point.name}"


def infer_shapes(
    op: Op, shapes: Sequence[Sequence[int] | None], attributes: Mapping[str, Any]
) -> list[tuple[int, ...]]:
    """Output shapes as the C++ shape rule of an op computes them.

    Args:
        shapes: one for each tensor parameter, None where an optional one is absent.
        attributes: values by name; those left out have their defaults.
    Raises:
        OpInputError: the rule refuses the inputs.
        LibraryError: there is no library of plugins.
    """
    return op.library.plugins().infer_shapes(op.local_name, shapes, attributes, op.num_outputs)


def plugin_dtypes() -> dict[str, list[str]]:
    """Names of the dtypes that the first tensor of every plugin takes, by op; of libraries that work."""
    dtypes: dict[str, list[str]] = {}
    for each in LIBRARIES.values():
        try:
            of_library = each.plugins().dtypes
        except BridgeError:
            continue
        dtypes |= {each.ops[name].name: of_library[name] for name in each.ops.keys() & of_library.keys()}
    return dtypes


@contextmanager
def tactic(op: str, number: int) -> Iterator[None]:
    """Within it calls of an op through PyTorch use one of its kernels, by number, wherever that can compute them.

    For tests and measurements: the op itself chooses well, and so does TensorRT among a plugin's tactics.

    Raises:
        LibraryError: the library with the CUDA implementations is not there.
        ValueError: no op has that name.
    """
    if op not in OPS:
        raise ValueError(f"no op is called {op!r}; there are {', '.join(sorted(written()))}")
    owner = OPS[op].library
    path = owner.find("torch")
    if path is None:
        raise LibraryError(owner.missing_text("torch"))
    native, name = ctypes.CDLL(str(path)), OPS[op].local_name.encode()
    before = ctypes.c_int32()
    if native.bridge_force_tactic(name, number, ctypes.byref(before)):
        raise ValueError(f"{path} has no kernel of {op}")
    try:
        yield
    finally:
        native.bridge_force_tactic(name, before, None)
