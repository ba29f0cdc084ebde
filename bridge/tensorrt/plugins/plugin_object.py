"""A plugin as TensorRT calls it: those of its virtual functions that a build and a run need.

The slots are those of csrc/hosts/tensorrt/abi.h. It needs no TensorRT, and up to `enqueue` no GPU.
"""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bridge.core import plugin_file

CORE, BUILD, RUNTIME = 0, 1, 2
BUILD_PHASE, RUNTIME_PHASE = 0, 1  # for a network; from an engine
DTYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.int8: 2,
    torch.int32: 3,
    torch.bool: 4,
    torch.uint8: 5,
    torch.bfloat16: 7,
    torch.int64: 8,
}
LINEAR, HWC8, CHW4, HWC = 0, 2, 3, 8
FIRST = 4  # slots before an interface's own: language, info, two destructors


class Dims(Structure):
    """A shape of TensorRT's."""

    _fields_ = [("rank", c_int32), ("extent", c_int64 * 8)]


class Desc(Structure):
    """PluginTensorDesc."""

    _fields_ = [("dims", Dims), ("dtype", c_int32), ("format", c_int32), ("scale", c_float)]


class DynamicDesc(Structure):
    """DynamicPluginTensorDesc: with the extents of a profile."""

    _fields_ = [("desc", Desc), ("min", Dims), ("max", Dims), ("opt", Dims)]


def dims(shape: Sequence[int]) -> Dims:
    """A shape."""
    return Dims(len(shape), (c_int64 * 8)(*shape))


def desc(shape: Sequence[int], dtype: torch.dtype, format: int = LINEAR) -> Desc:
    """What a plugin is told of a tensor."""
    return Desc(dims(shape), DTYPES[dtype], format, 1.0)


def descs(tensors: Sequence[torch.Tensor], formats: Sequence[int] = ()) -> Any:
    """The same of several, as an array."""
    formats = formats or [LINEAR] * len(tensors)
    rows = (desc(tuple(t.shape), t.dtype, format) for t, format in zip(tensors, formats, strict=True))
    return (Desc * max(len(tensors), 1))(*rows)


def dynamic(tensors: Sequence[torch.Tensor], formats: Sequence[int] = ()) -> Any:
    """The same for a build, whose profile has these shapes alone."""
    rows = [(each, each.dims) for each in descs(tensors, formats)[: len(tensors)]]
    return (DynamicDesc * max(len(rows), 1))(*(DynamicDesc(d, s, s, s) for d, s in rows))


def split(formats: Sequence[int], inputs: Sequence[torch.Tensor]) -> tuple[Sequence[int], Sequence[int]]:
    """Formats of inputs, and those of outputs behind them, which may be missing."""
    return formats[: len(inputs)], formats[len(inputs) :]


def addresses(tensors: Sequence[torch.Tensor]) -> Any:
    """Where several tensors lie, as an array."""
    return (c_void_p * max(len(tensors), 1))(*(t.data_ptr() for t in tensors))


def call(this: int, slot: int, result: Any, *arguments: Any, types: Sequence[Any] = ()) -> Any:
    """Calls virtual function `slot` (after the common four) of the object at address `this`."""
    table = ctypes.cast(this, POINTER(POINTER(c_void_p))).contents
    function = ctypes.CFUNCTYPE(result, c_void_p, *types)(table[FIRST + slot])
    return function(this, *arguments)


@cache
def creators(path: Path) -> dict[str, int]:
    """Address of every creator in a library of plugins, by plugin name."""
    library = ctypes.CDLL(str(path))
    library.getCreators.restype = POINTER(c_void_p)
    count = c_int32()
    addresses = library.getCreators(byref(count))
    return {call(addresses[i], 2, c_char_p).decode(): addresses[i] for i in range(count.value)}


def create(path: Path, name: str, fields: dict[str, Any], phase: int = BUILD_PHASE) -> int | None:
    """Address of a new plugin of a library, or None where the creator refuses the fields."""
    pairs = [plugin_file.field(key, value) for key, value in fields.items()]
    array = (plugin_file.Field * max(len(pairs), 1))(*(field for field, _ in pairs))
    collection = plugin_file.Fields(len(pairs), array)
    given = (name.encode(), byref(collection), phase)
    return call(creators(path)[name], 0, c_void_p, *given, types=[c_char_p, c_void_p, c_int32])


def delete(this: int) -> None:
    """Destroys the object at address `this`."""
    call(this, 3 - FIRST, None)


class PluginObject:
    """One plugin object, at an address."""

    def __init__(self, this: int | None) -> None:
        assert this, "no plugin"
        self.this = this
        self.core, self.build, self.runtime = (
            call(this, 0, c_void_p, interface, types=[c_int32]) for interface in (CORE, BUILD, RUNTIME)
        )
        self.num_outputs = call(self.build, 4, c_int32)

    def configure(
        self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], formats: Sequence[int] = ()
    ) -> int:
        """Tells it the tensors of a call; a status other than 0 is a refusal.

        formats: of the inputs, and perhaps of the outputs behind them.
        """
        own, further = split(formats, inputs)
        given = (dynamic(inputs, own), len(inputs), dynamic(outputs, further), len(outputs))
        return call(self.build, 0, c_int32, *given, types=[c_void_p, c_int32] * 2)

    def takes(
        self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], formats: Sequence[int] = ()
    ) -> bool:
        """Whether every tensor may be in its format, and in its dtype."""
        given = dynamic([*inputs, *outputs], formats)
        counts, types = (len(inputs), len(outputs)), [c_int32, c_void_p, c_int32, c_int32]
        return all(
            call(self.build, 3, c_bool, position, given, *counts, types=types) for position in range(sum(counts))
        )

    def tactics(self) -> list[int]:
        """The tactics for the shapes that it was configured with."""
        tactics = (c_int32 * call(self.build, 7, c_int32))()
        assert call(self.build, 6, c_int32, tactics, len(tactics), types=[c_void_p, c_int32]) == 0
        return list(tactics)

    def own_tactic(self) -> int | None:
        """That of the tactics which the op would choose, as it was configured; None where there is but one way."""
        text = call(self.build, 10, c_char_p)
        return int(text.decode().removeprefix("own tactic ")) if text else None

    def set_tactic(self, tactic: int) -> int:
        """Has it run by one of its tactics; a status other than 0 is a refusal."""
        return int(call(self.runtime, 0, c_int32, tactic, types=[c_int32]))

    def workspace(
        self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], formats: Sequence[int] = ()
    ) -> int:
        """The bytes of scratch memory that a run needs."""
        own, further = split(formats, inputs)
        given = (dynamic(inputs, own), len(inputs), dynamic(outputs, further), len(outputs))
        return call(self.build, 5, c_size_t, *given, types=[c_void_p, c_int32] * 2)

    def shape_change(
        self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], formats: Sequence[int] = ()
    ) -> int:
        """Tells it the shapes of the next runs; a status other than 0 is a refusal."""
        own, further = split(formats, inputs)
        given = (descs(inputs, own), len(inputs), descs(outputs, further), len(outputs))
        return call(self.runtime, 1, c_int32, *given, types=[c_void_p, c_int32] * 2)

    def enqueue(
        self,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        stream: int,
        workspace: torch.Tensor | None = None,
        formats: Sequence[int] = (),
    ) -> int:
        """Has a stream run it, on tensors of the shapes that it was told; a status other than 0 is a failure."""
        scratch = None if workspace is None else workspace.data_ptr()
        own, further = split(formats, inputs)
        given = (descs(inputs, own), descs(outputs, further), addresses(inputs), addresses(outputs), scratch, stream)
        return call(self.runtime, 2, c_int32, *given, types=[c_void_p] * 6)
