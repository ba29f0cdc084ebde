"""A library of plugins as a file: what it says of itself, and the rules of its ops for shapes and dtypes.

`csrc/hosts/tensorrt/capi.cpp` has the functions that are called here.
"""

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from bridge.core.tensors import MAX_RANK
from bridge.errors import LibraryError, OpInputError

LOADER_ABI = 1
"""Of the functions below; csrc/core/library.h has the same number."""

_MESSAGE_SIZE = 4096
_FUNCTIONS = ("getCreators", "bridge_num_ops", "bridge_schema")  # of every version


class Field(ctypes.Structure):
    """TensorRT's PluginField."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    ]


class Fields(ctypes.Structure):
    """TensorRT's PluginFieldCollection."""

    _fields_ = [("count", ctypes.c_int32), ("fields", ctypes.POINTER(Field))]


_FLOAT64, _CHAR, _INT64 = 2, 6, 10  # TensorRT's plugin field types


def field(name: str, value: Any) -> tuple[Field, Any]:
    """A plugin field, and the buffer that it points to."""
    if isinstance(value, str):
        buffer: Any = ctypes.create_string_buffer(value.encode())
        kind, length = _CHAR, len(value.encode())
    else:
        values = list(value) if isinstance(value, Sequence) else [value]
        floating = any(isinstance(item, float) for item in values)
        buffer = ((ctypes.c_double if floating else ctypes.c_int64) * len(values))(*values)
        kind, length = (_FLOAT64 if floating else _INT64), len(values)
    return Field(name.encode(), ctypes.cast(buffer, ctypes.c_void_p), kind, length), buffer


class PluginFile:
    """A library of plugins that is loaded into the process.

    Raises:
        LibraryError: it does not load, is no library of bridge's ops, or was built with another bridge.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryError(f"{path} does not load: {error}. {REBUILD}") from error
        if lacking := ", ".join(name for name in _FUNCTIONS if not hasattr(self._library, name)):
            raise LibraryError(f"{path} is no bridge plugin library: it lacks {lacking}")
        abi = self._library.bridge_loader_abi() if hasattr(self._library, "bridge_loader_abi") else 0
        if abi != LOADER_ABI:
            age = "an older" if abi < LOADER_ABI else "a newer"
            raise LibraryError(
                f"{path} was built with {age} bridge: its ABI is {abi}, expected {LOADER_ABI}. {REBUILD}"
            )
        self._library.bridge_namespace.restype = ctypes.c_char_p

    @property
    def namespace(self) -> str:
        """Of its ops."""
        return str(self._library.bridge_namespace().decode())

    @cached_property
    def schemas(self) -> dict[str, str]:
        """The schema of every plugin by the op's name, as torch.library spells it, without the namespace."""
        return {schema.partition("(")[0]: schema for schema in self._texts("bridge_schema")}

    @cached_property
    def dtypes(self) -> dict[str, list[str]]:
        """Names of the dtypes that the first tensor of every plugin takes, by the op's name."""
        texts = self._texts("bridge_dtypes")
        return {name: text.split(" or ") for name, text in zip(self.schemas, texts, strict=True)}

    def _texts(self, function: str) -> list[str]:
        """What a function of the library writes of every op."""
        texts = []
        for index in range(self._library.bridge_num_ops()):
            text = ctypes.create_string_buffer(_MESSAGE_SIZE)
            getattr(self._library, function)(index, text, len(text))
            texts.append(text.value.decode())
        return texts

    def leave_out(self, names: Iterable[str]) -> None:
        """Has TensorRT not see some plugins from now on, and no others, for it takes no library of which it has one.

        LibraryError: the library is from before bridge could do that.
        """
        chosen = [name.encode() for name in sorted(names)]
        if hasattr(self._library, "bridge_leave_out"):
            self._library.bridge_leave_out((ctypes.c_char_p * len(chosen))(*chosen), len(chosen))
        elif chosen:
            raise LibraryError(f"{self.path} was built with an older bridge, and cannot be loaded in part. {REBUILD}")

    def infer_shapes(
        self, op: str, shapes: Sequence[Sequence[int] | None], attributes: Mapping[str, Any], num_outputs: int
    ) -> list[tuple[int, ...]]:
        """What libraries.infer_shapes says, of an op by its name without the namespace."""
        pairs = [field(name, value) for name, value in attributes.items()]
        fields = (Field * len(pairs))(*(each for each, _ in pairs))
        ranks = (ctypes.c_int32 * len(shapes))(*(-1 if shape is None else len(shape) for shape in shapes))
        extents = [extent for shape in shapes if shape is not None for extent in shape]
        out_ranks = (ctypes.c_int32 * num_outputs)()
        out_extents = (ctypes.c_int64 * (num_outputs * MAX_RANK))()
        message = ctypes.create_string_buffer(_MESSAGE_SIZE)
        failed = self._library.bridge_infer_shapes(
            op.encode(),
            ctypes.byref(Fields(len(pairs), fields)),
            ranks,
            (ctypes.c_int64 * len(extents))(*extents),
            out_ranks,
            out_extents,
            message,
            len(message),
        )
        if failed:
            raise OpInputError(message.value.decode(errors="replace"))
        rows = [out_extents[i * MAX_RANK : (i + 1) * MAX_RANK] for i in range(num_outputs)]
        return [tuple(row[:rank]) for row, rank in zip(rows, out_ranks, strict=True)]

    def infer_dtypes(
        self, op: str, dtypes: Sequence[str | None], attributes: Mapping[str, Any] | None = None
    ) -> list[str]:
        """The dtypes of an op's outputs, for those of its tensors: "float16", None where an optional one is absent.

        attributes: of the op, which may choose dtypes; None for the defaults.
        Raises:
            OpInputError: the kernel does not take a tensor of that dtype; the message names the tensor.
        """
        names = (ctypes.c_char_p * len(dtypes))(*(None if dtype is None else dtype.encode() for dtype in dtypes))
        text = ctypes.create_string_buffer(_MESSAGE_SIZE)
        if attributes is None or not hasattr(self._library, "bridge_infer_dtypes_of"):  # of an older bridge
            failed = self._library.bridge_infer_dtypes(op.encode(), names, text, len(text))
        else:
            pairs = [field(name, value) for name, value in attributes.items()]
            fields = Fields(len(pairs), (Field * len(pairs))(*(each for each, _ in pairs)))
            failed = self._library.bridge_infer_dtypes_of(op.encode(), ctypes.byref(fields), names, text, len(text))
        answer = text.value.decode(errors="replace")
        if failed:
            raise OpInputError(answer)
        return answer.split(",")


REBUILD = "Build it again: pip install --force-reinstall ."


@cache
def open_plugins(path: Path) -> PluginFile:
    """The library of plugins at a path; a process loads it once. LibraryError: see PluginFile."""
    return PluginFile(path)
