"""A host for V3 plugins in Python: calls a plugin's virtual functions like TensorRT, in the same order.

bridge/tensorrt/plugins/plugin_object.py has what bridge itself calls; here is the rest. Plugins run here without
TensorRT, and up to enqueue without a GPU.
"""

import ctypes
import struct
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_int32, c_int64, c_void_p
from typing import Any

import torch

from bridge.core import libraries, plugin_file
from bridge.tensorrt.plugins import plugin_object
from bridge.tensorrt.plugins.plugin_object import (
    BUILD_PHASE,
    DTYPES,
    LINEAR,
    DynamicDesc,
    PluginObject,
    call,
    desc,
)


def creators() -> dict[str, int]:
    """Address of every creator in bridge's plugin library, by plugin name."""
    return plugin_object.creators(libraries.plugin_library())


class Plugin(PluginObject):
    """One plugin object."""

    @staticmethod
    def create(name: str, fields: dict[str, Any], phase: int = BUILD_PHASE) -> int | None:
        """Address of a new plugin of bridge's, or None where the creator refuses the fields."""
        return plugin_object.create(libraries.plugin_library(), name, fields, phase)

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
        format: int | Sequence[int] = LINEAR,
        shapes: Sequence[Sequence[int]] = (),
    ) -> bool:
        shapes = shapes or [(1,)] * len(dtypes)
        if isinstance(format, int):
            formats = [format if i == position else LINEAR for i in range(len(dtypes))]
        else:
            formats = list(format)
        entries = [DynamicDesc(desc(*entry)) for entry in zip(shapes, dtypes, formats, strict=True)]
        array = (DynamicDesc * len(entries))(*entries)
        counts = (num_inputs, len(dtypes) - num_inputs)
        return call(self.build, 3, c_bool, position, array, *counts, types=[c_int32, c_void_p, c_int32, c_int32])

    def timing_cache_id(self) -> str | None:
        text = call(self.build, 8, c_char_p)
        return text and text.decode()


# Calls that TensorRT never makes, for tests/fuzz/fuzz_plugins.py. Nothing here is checked.


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
