"""A host for V3 plugins in Python: calls a plugin's virtual functions like TensorRT, in the same order.

The slots are those of csrc/hosts/tensorrt/abi.h. Plugins run here without TensorRT, and up to enqueue without a GPU.
"""

import ctypes
import functools
import struct
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from typing import Any

import torch

from bridge.core import libraries, plugin_file

CORE, BUILD, RUNTIME = 0, 1, 2
DTYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.int8: 2,
    torch.int32: 3,
    torch.bool: 4,
    torch.bfloat16: 7,
    torch.int64: 8,
}
LINEAR, HWC8, CHW4, HWC = 0, 2, 3, 8
FIRST = 4  # slots before an interface's own: language, info, two destructors


class Dims(Structure):
    _fields_ = [("rank", c_int32), ("extent", c_int64 * 8)]


class Desc(Structure):
    _fields_ = [("dims", Dims), ("dtype", c_int32), ("format", c_int32), ("scale", c_float)]


class DynamicDesc(Structure):
    _fields_ = [("desc", Desc), ("min", Dims), ("max", Dims), ("opt", Dims)]


def dims(shape: Sequence[int]) -> Dims:
    return Dims(len(shape), (c_int64 * 8)(*shape))


def desc(shape: Sequence[int], dtype: torch.dtype, format: int = LINEAR) -> Desc:
    return Desc(dims(shape), DTYPES[dtype], format, 1.0)


def descs(tensors: Sequence[torch.Tensor], formats: Sequence[int] = ()) -> Any:
    formats = formats or [LINEAR] * len(tensors)
    rows = (desc(tuple(t.shape), t.dtype, format) for t, format in zip(tensors, formats, strict=True))
    return (Desc * max(len(tensors), 1))(*rows)


def dynamic(tensors: Sequence[torch.Tensor]) -> Any:
    rows = [(desc(tuple(t.shape), t.dtype), dims(tuple(t.shape))) for t in tensors]
    return (DynamicDesc * max(len(rows), 1))(*(DynamicDesc(d, s, s, s) for d, s in rows))


def call(this: int, slot: int, result: Any, *arguments: Any, types: Sequence[Any] = ()) -> Any:
    """Calls virtual function `slot` (after the common four) of the object at address `this`."""
    table = ctypes.cast(this, POINTER(POINTER(c_void_p))).contents
    function = ctypes.CFUNCTYPE(result, c_void_p, *types)(table[FIRST + slot])
    return function(this, *arguments)


@functools.cache
def creators() -> dict[str, int]:
    """Address of every creator in the plugin library, by plugin name."""
    library = ctypes.CDLL(str(libraries.plugin_library()))
    library.getCreators.restype = POINTER(c_void_p)
    count = c_int32()
    addresses = library.getCreators(byref(count))
    return {call(addresses[i], 2, c_char_p).decode(): addresses[i] for i in range(count.value)}


class Plugin:
    """One plugin object."""

    def __init__(self, this: int | None, num_outputs: int | None = None) -> None:
        assert this, "no plugin"
        self.this = this
        self.core, self.build, self.runtime = (
            call(this, 0, c_void_p, interface, types=[c_int32]) for interface in (CORE, BUILD, RUNTIME)
        )
        self.num_outputs = call(self.build, 4, c_int32)

    @staticmethod
    def create(name: str, fields: dict[str, Any]) -> int | None:
        """Address of a new plugin, or None where the creator refuses the fields."""
        pairs = [plugin_file.field(key, value) for key, value in fields.items()]
        array = (plugin_file.Field * max(len(pairs), 1))(*(field for field, _ in pairs))
        collection = plugin_file.Fields(len(pairs), array)
        return call(
            creators()[name], 0, c_void_p, name.encode(), byref(collection), 0, types=[c_char_p, c_void_p, c_int32]
        )

    def clone(self) -> "Plugin":
        return Plugin(call(self.this, 1, c_void_p))

    def attach(self) -> "Plugin":
        return Plugin(call(self.runtime, 3, c_void_p, None, types=[c_void_p]))

    def serialized(self) -> dict[str, tuple[int, bytes]]:
        """Name → (type, bytes) of the fields that an engine would hold."""
        collection = ctypes.cast(call(self.runtime, 4, c_void_p), POINTER(plugin_file.Fields)).contents
        sizes = {1: 4, 6: 1, 10: 8}
        fields = [collection.fields[i] for i in range(collection.count)]
        return {f.name.decode(): (f.type, ctypes.string_at(f.data, f.length * sizes[f.type])) for f in fields}

    def name(self) -> tuple[str, str, str]:
        return tuple(call(self.core, slot, c_char_p).decode() for slot in range(3))  # type: ignore[return-value]

    def output_dtypes(self, inputs: Sequence[torch.dtype]) -> list[int]:
        out = (c_int32 * self.num_outputs)()
        given = (c_int32 * len(inputs))(*(DTYPES[d] for d in inputs))
        status = call(self.build, 1, c_int32, out, self.num_outputs, given, len(inputs), types=[c_void_p, c_int32] * 2)
        assert status == 0
        return list(out)

    def supports(
        self,
        position: int,
        dtypes: Sequence[torch.dtype],
        num_inputs: int,
        format: int = LINEAR,
        shapes: Sequence[Sequence[int]] = (),
    ) -> bool:
        shapes = shapes or [(1,)] * len(dtypes)
        formats = [format if i == position else LINEAR for i in range(len(dtypes))]
        entries = [DynamicDesc(desc(*entry)) for entry in zip(shapes, dtypes, formats, strict=True)]
        array = (DynamicDesc * len(entries))(*entries)
        counts = (num_inputs, len(dtypes) - num_inputs)
        return call(self.build, 3, c_bool, position, array, *counts, types=[c_int32, c_void_p, c_int32, c_int32])

    def configure(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
        given = (dynamic(inputs), len(inputs), dynamic(outputs), len(outputs))
        return call(self.build, 0, c_int32, *given, types=[c_void_p, c_int32] * 2)

    def workspace(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
        given = (dynamic(inputs), len(inputs), dynamic(outputs), len(outputs))
        return call(self.build, 5, c_size_t, *given, types=[c_void_p, c_int32] * 2)

    def tactics(self) -> list[int]:
        """The tactics for the shapes that it was configured with."""
        tactics = (c_int32 * call(self.build, 7, c_int32))()
        assert call(self.build, 6, c_int32, tactics, len(tactics), types=[c_void_p, c_int32]) == 0
        return list(tactics)

    def timing_cache_id(self) -> str | None:
        text = call(self.build, 8, c_char_p)
        return text and text.decode()

    def set_tactic(self, tactic: int) -> int:
        return call(self.runtime, 0, c_int32, tactic, types=[c_int32])

    def shape_change(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
        given = (descs(inputs), len(inputs), descs(outputs), len(outputs))
        return call(self.runtime, 1, c_int32, *given, types=[c_void_p, c_int32] * 2)

    def enqueue(
        self,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        stream: int,
        workspace: torch.Tensor | None = None,
        formats: Sequence[int] = (),
    ) -> int:
        def addresses(tensors: Sequence[torch.Tensor]) -> Any:
            return (c_void_p * max(len(tensors), 1))(*(t.data_ptr() for t in tensors))

        scratch = None if workspace is None else workspace.data_ptr()
        given = (descs(inputs, formats), descs(outputs), addresses(inputs), addresses(outputs), scratch, stream)
        return call(self.runtime, 2, c_int32, *given, types=[c_void_p] * 6)


# Calls that TensorRT never makes, for tests/fuzz/fuzz_plugins.py. Nothing here is checked.


def delete(this: int) -> None:
    """Destroys the object at address `this`."""
    call(this, 3 - FIRST, None)


def _packed(rows: Sequence[bytes]) -> Any:
    """The rows concatenated, with spare room."""
    data = b"".join(rows)
    return (ctypes.c_char * (len(data) + 8 * ctypes.sizeof(DynamicDesc))).from_buffer_copy(
        data + bytes(8 * ctypes.sizeof(DynamicDesc))
    )


def _dims_bytes(extents: Sequence[int], rank: int) -> bytes:
    return struct.pack("i4x8q", rank, *[*extents, *[0] * 8][:8])


def _desc_bytes(row: Sequence[Any]) -> bytes:
    extents, rank, dtype, format = row
    return _dims_bytes(extents, rank) + struct.pack("iif4x", dtype, format, 1.0)


def pack_tensors(rows: Sequence[Sequence[Any]]) -> Any:
    """Descriptors of [extents, rank, dtype, format]; the rank need not be that of the extents."""
    return _packed([_desc_bytes(row) for row in rows])


def pack_dynamic(rows: Sequence[Sequence[Any]], largest: Sequence[Sequence[Any]]) -> Any:
    """The same for a build. largest: the max of the profile."""
    return _packed(
        [
            _desc_bytes(row) + _dims_bytes(*row[:2]) + _dims_bytes(*most[:2]) + _dims_bytes(*row[:2])
            for row, most in zip(rows, largest, strict=True)
        ]
    )


def pack_exprs(shapes: Sequence[tuple[Sequence[int], int]], nulls: bool = False) -> Any:
    """Symbolic shapes: (extents, rank); the extents are handles that `Builder` does not know."""
    rows = [struct.pack("i4x8Q", rank, *[0 if nulls else 16 + 16 * i for i in range(8)]) for _, rank in shapes]
    return _packed(rows)


def pack_fields(rows: Sequence[tuple[Any, Any, int | None, int | None]], address: int | None = 0) -> Any:
    """Fields of (name, value, type, length): None for a type or length is the value's own, `address` None is null."""
    fields, kept = [], []
    for name, value, type_code, length in rows:
        field, buffer = plugin_file.field("x", [0] if value is None else value)
        # Room for as many values of any type.
        room = 8 * max(field.length, 16)
        spare = (ctypes.c_char * room).from_buffer_copy(bytes(buffer).ljust(room, b"\0")[:room])
        kept.append(spare)
        data = None if value is None else ctypes.cast(spare, c_void_p)
        fields.append(
            plugin_file.Field(
                None if name is None else name.encode(),
                data,
                field.type if type_code is None else type_code,
                field.length if length is None else length,
            )
        )
    array = (plugin_file.Field * max(len(fields), 1))(*fields)
    collection = plugin_file.Fields(len(fields), array if address is not None else None)
    collection.kept = kept
    return collection


class Builder:
    """An IExprBuilder whose expressions are arbitrary handles; null if it refuses."""

    def __init__(self, refuses: bool = False) -> None:
        self._next = 1 << 20

        def make(*_: Any) -> int:
            self._next += 16
            return 0 if refuses else self._next

        types = [
            ctypes.CFUNCTYPE(c_void_p, c_void_p),
            ctypes.CFUNCTYPE(c_void_p, c_void_p),
            ctypes.CFUNCTYPE(c_void_p, c_void_p, c_int64),
            ctypes.CFUNCTYPE(c_void_p, c_void_p, c_int32, c_void_p, c_void_p),
            ctypes.CFUNCTYPE(c_void_p, c_void_p, c_int32, c_void_p, c_void_p),
        ]
        self._functions = [function_type(make) for function_type in types]
        self._table = (c_void_p * 5)(*(ctypes.cast(function, c_void_p).value for function in self._functions))
        self._object = (c_void_p * 1)(ctypes.addressof(self._table))
        self._handle = (c_void_p * 2)(None, ctypes.addressof(self._object))
        self.address = ctypes.addressof(self._handle)
