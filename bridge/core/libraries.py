"""Finds and loads the two native libraries, and checks them against the ops' schemas.

``libbridge_torch.so`` holds the CUDA implementations of torch.ops.bridge; ``libbridge_plugins.so`` the same ops as
TensorRT plugins. They lie in ``bridge/lib`` of an installed package, or where BRIDGE_LIBRARY_DIR points.
"""

import ctypes
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bridge.base.package import folders
from bridge.core.op import OPS, Op
from bridge.errors import LibraryError, OpInputError

TORCH_LIBRARY = "libbridge_torch.so"
PLUGIN_LIBRARY = "libbridge_plugins.so"
MAX_RANK = 8
_MESSAGE_SIZE = 4096


def library_directories() -> list[Path]:
    """Where libraries are looked for, in order."""
    override = os.environ.get("BRIDGE_LIBRARY_DIR")
    return [Path(override)] if override else [folder / "lib" for folder in folders()]


def find(name: str) -> Path | None:
    """The library of that file name, or None when there is none."""
    return next((d / name for d in library_directories() if (d / name).is_file()), None)


def plugin_library() -> Path:
    """Path of the plugin library.

    Raises:
        LibraryError: it is not there.
    """
    path = find(PLUGIN_LIBRARY)
    if path is None:
        searched = ", ".join(map(str, library_directories()))
        raise LibraryError(
            f"{PLUGIN_LIBRARY} is not in {searched}. Build it with `pip install .`, or set BRIDGE_LIBRARY_DIR."
        )
    return path.resolve()


@cache
def _plugins(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(f"{path} does not load: {error}. Build it again: pip install --force-reinstall .") from error
    missing = [
        name
        for name in ("getCreators", "bridge_num_ops", "bridge_schema", "bridge_dtypes", "bridge_infer_shapes")
        if not hasattr(library, name)
    ]
    if missing:
        raise LibraryError(f"{path} is no bridge plugin library: it lacks {', '.join(missing)}")
    return library


def plugin_schemas() -> dict[str, str]:
    """Schema of every plugin by op name, as the plugin library spells it."""
    schemas = _texts("bridge_schema")
    return {schema.partition("(")[0]: schema for schema in schemas}


def plugin_dtypes() -> dict[str, list[str]]:
    """Names of the dtypes that the first tensor of every plugin takes, by op name."""
    return {name: text.split(" or ") for name, text in zip(plugin_schemas(), _texts("bridge_dtypes"), strict=True)}


def _texts(function: str) -> list[str]:
    """What a function of the plugin library writes of every op."""
    library = _plugins(plugin_library())
    texts = []
    for index in range(library.bridge_num_ops()):
        text = ctypes.create_string_buffer(_MESSAGE_SIZE)
        getattr(library, function)(index, text, len(text))
        texts.append(text.value.decode())
    return texts


def own_ops() -> dict[str, Op]:
    """bridge's own ops: of all that are defined, those that the native libraries must have."""
    return {name: op for name, op in OPS.items() if op.reference.__module__.startswith("bridge.ops.")}


def check_schemas(ops: Mapping[str, Op], schemas: Mapping[str, str]) -> None:
    """Compares the Python schema of every op with the plugin library's.

    Raises:
        LibraryError: they differ, or an op is on one side alone; the message shows both.
    """
    for name in sorted(ops.keys() | schemas.keys()):
        python = ops[name].spell_schema() if name in ops else None
        native = schemas.get(name)
        if python is None or native is None or _canonical(python) != _canonical(native):
            raise LibraryError(
                f"op {name}: bridge/ops/{name}.py and csrc/ops/*/{name}.cu disagree.\n"
                f"  Python: {python or 'not defined'}\n  native: {native or 'not in the library'}\n"
                f"Build the libraries again (pip install .), or mend the one that is wrong."
            )


def _canonical(schema: str) -> str:
    return str(torch._C.parse_schema(schema))


def load() -> None:
    """Loads what is there: the CUDA implementations into torch, and the plugin library for its schemas.

    Where a library is missing the ops still work on CPU; ``bridge doctor`` says what is missing.

    Raises:
        LibraryError: the plugin library does not match the ops.
    """
    path = find(TORCH_LIBRARY)
    if path is not None and torch.version.cuda is not None:
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            warnings.warn(f"bridge: ops have no CUDA kernels, {path} does not load: {error}", stacklevel=2)
    if find(PLUGIN_LIBRARY) is not None:
        check_schemas(own_ops(), plugin_schemas())


@contextmanager
def tactic(op: str, number: int) -> Iterator[None]:
    """Within it calls of an op through PyTorch use one of its kernels, by number, wherever that can compute them.

    For tests and measurements: the op itself chooses well, and so does TensorRT among a plugin's tactics.

    Raises:
        LibraryError: the library with the CUDA implementations is not there.
        ValueError: no op has that name.
    """
    path = find(TORCH_LIBRARY)
    if path is None:
        raise LibraryError(f"{TORCH_LIBRARY} is not in {', '.join(map(str, library_directories()))}")
    library = ctypes.CDLL(str(path))
    before = ctypes.c_int32()
    if library.bridge_force_tactic(op.encode(), number, ctypes.byref(before)):
        raise ValueError(f"no op is called {op!r}; there are {', '.join(sorted(OPS))}")
    try:
        yield
    finally:
        library.bridge_force_tactic(op.encode(), before, None)


class _Field(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    ]


class _Fields(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32), ("fields", ctypes.POINTER(_Field))]


_FLOAT64, _CHAR, _INT64 = 2, 6, 10  # TensorRT's plugin field types


def _field(name: str, value: Any) -> tuple[_Field, Any]:
    """A plugin field, and the buffer that it points to."""
    if isinstance(value, str):
        buffer: Any = ctypes.create_string_buffer(value.encode())
        kind, length = _CHAR, len(value.encode())
    else:
        values = list(value) if isinstance(value, Sequence) else [value]
        floating = any(isinstance(item, float) for item in values)
        buffer = ((ctypes.c_double if floating else ctypes.c_int64) * len(values))(*values)
        kind, length = (_FLOAT64 if floating else _INT64), len(values)
    return _Field(name.encode(), ctypes.cast(buffer, ctypes.c_void_p), kind, length), buffer


def infer_shapes(
    op: Op, shapes: Sequence[Sequence[int] | None], attributes: Mapping[str, Any]
) -> list[tuple[int, ...]]:
    """Output shapes as the C++ shape rule of an op computes them.

    Args:
        shapes: one for each tensor parameter, None where an optional one is absent.
        attributes: values by name; those left out have their defaults.
    Raises:
        OpInputError: the rule refuses the inputs.
    """
    library = _plugins(plugin_library())
    pairs = [_field(name, value) for name, value in attributes.items()]
    fields = (_Field * len(pairs))(*(field for field, _ in pairs))
    ranks = (ctypes.c_int32 * len(shapes))(*(-1 if shape is None else len(shape) for shape in shapes))
    extents = [extent for shape in shapes if shape is not None for extent in shape]
    out_ranks = (ctypes.c_int32 * op.num_outputs)()
    out_extents = (ctypes.c_int64 * (op.num_outputs * MAX_RANK))()
    message = ctypes.create_string_buffer(_MESSAGE_SIZE)
    failed = library.bridge_infer_shapes(
        op.name.encode(),
        ctypes.byref(_Fields(len(pairs), fields)),
        ranks,
        (ctypes.c_int64 * len(extents))(*extents),
        out_ranks,
        out_extents,
        message,
        len(message),
    )
    if failed:
        raise OpInputError(message.value.decode(errors="replace"))
    rows = [out_extents[i * MAX_RANK : (i + 1) * MAX_RANK] for i in range(op.num_outputs)]
    return [tuple(row[:rank]) for row, rank in zip(rows, out_ranks, strict=True)]
