"""The addresses and arguments of caught launches, as a program's."""

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch

from bridge.errors import UnsupportedOpError
from bridge.generate.program import Argument, Buffer, Configuration, Extent, Launch, Pointer
from bridge.generate.tracing.recording import Recording
from bridge.generate.tracing.symbols import Environment
from bridge.generate.tracing.triton_launches import CaughtConfiguration, CaughtLaunch
from bridge.generate.tracing.writes import check_writes

_INT32 = 1 << 31
_ALIGNMENT = 16
MOST_CONFIGURATIONS = 8
"""Of an autotuned kernel; each is compiled for every target, in three variants."""
_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.bool: "i1",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
}


class Memory:
    """Where tensors of a recording lie: in an input, an output or a buffer, which are counted as they are met."""

    def __init__(self, recording: Recording, environment: Environment, names: Sequence[str]) -> None:
        self._names = names
        self.buffers: list[Buffer] = []
        self._recording = recording
        self._environment = environment
        self._places: dict[int, Pointer] = {}
        for index, result in enumerate(recording.results):
            if _fills_buffer(recording, result, environment):
                self._places.setdefault(id(recording.storage_of(result)), Pointer("output", index))

    def is_output(self, tensor: torch.Tensor, index: int) -> bool:
        """Whether a result lies in the memory of output `index` already."""
        return self._places.get(id(self._recording.storage_of(tensor))) == Pointer("output", index)

    def pointer(self, tensor: torch.Tensor) -> Pointer:
        """The address of a tensor's first element."""
        place = self._place(tensor)
        offset = self._environment.expression(tensor.storage_offset() * tensor.element_size())
        return Pointer(place.kind, place.index, offset)

    def inputs_of(self, caught: CaughtLaunch) -> dict[str, str]:
        """The tensors of a launch that lie in inputs, each with the name of the input."""
        arguments = caught.configurations[0].arguments
        tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
        places = {name: self._place(tensor) for name, tensor in tensors.items()}
        return {name: self._names[place.index] for name, place in places.items() if place.kind == "input"}

    def add_buffer(self, size: Extent) -> Pointer:
        """Room for so many bytes."""
        self.buffers.append(Buffer(size))
        return Pointer("buffer", len(self.buffers) - 1)

    def _place(self, tensor: torch.Tensor) -> Pointer:
        try:
            storage = self._recording.storage_of(tensor)
        except KeyError:
            raise UnsupportedOpError(
                f"it uses a tensor of shape {list(tensor.shape)} that is no argument and that it did not make"
            ) from None
        if storage.kind == "input":
            return Pointer("input", storage.index)
        if id(storage) not in self._places:
            size = self._environment.expression(tensor.untyped_storage().nbytes())
            self._places[id(storage)] = self.add_buffer(size)
        return self._places[id(storage)]


def _fills_buffer(recording: Recording, result: torch.Tensor, environment: Environment) -> bool:
    """Whether a result is all of a memory that the function allocated, in row-major order."""
    if not recording.knows(result) or recording.storage_of(result).kind != "buffer" or not result.is_contiguous():
        return False
    whole = environment.expression(result.untyped_storage().nbytes())
    return bool(whole == environment.bytes(result)) and environment.expression(result.storage_offset()) == 0


def launch_step(caught: CaughtLaunch, memory: Memory, environment: Environment) -> Launch:
    """A launch as a program's. Alternatives differ in constants, options and grid, and agree in arguments.

    UnsupportedOpError: an argument is nothing that a plugin can pass.
    """
    check_writes(caught, memory.inputs_of(caught))
    first, *others = [_converted(caught.kernel, each, memory, environment) for each in caught.configurations]
    kept = [first[1], *(configuration for arguments, configuration in others if arguments == first[0])]
    return Launch(caught.kernel, first[0], tuple(spread(kept, MOST_CONFIGURATIONS)))


def spread(configurations: Sequence[Configuration], most: int) -> list[Configuration]:
    """So many of them, evenly chosen; the first stays the first, for it is the default."""
    if len(configurations) <= most:
        return list(configurations)
    return [configurations[index * len(configurations) // most] for index in range(most)]


def _converted(
    kernel: Any, caught: CaughtConfiguration, memory: Memory, environment: Environment
) -> tuple[tuple[Argument, ...], Configuration]:
    arguments: list[Argument] = []
    constants: dict[str, Any] = {}
    for parameter in kernel.params:
        value = caught.arguments[parameter.name]
        if parameter.is_constexpr:
            constants[parameter.name] = _constant(value)
            continue
        argument = _argument(parameter, value, memory, environment)
        if isinstance(argument, Argument):
            arguments.append(argument)
        else:
            constants[parameter.name] = _constant(value)
    grid = tuple(environment.expression(extent) for extent in caught.grid)
    return tuple(arguments), Configuration(constants, _plain(caught.options), grid)  # type: ignore[arg-type]


def _constant(value: Any) -> Any:
    """A constexpr. A symbolic one is fixed at the example's, with a guard."""
    if isinstance(value, torch.SymInt):
        return int(value)
    if isinstance(value, torch.SymBool):
        return bool(value)
    if isinstance(value, torch.SymFloat):
        return float(value)
    return value


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _constant(value) for name, value in options.items()}


def _argument(parameter: Any, value: Any, memory: Memory, environment: Environment) -> Argument | None:
    """None: the value is compiled in, as Triton's JIT does with None and 1."""
    name = parameter.name
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        kind = "maybe" if not parameter.do_not_specialize else "never"
        pointer = memory.pointer(value)
        if pointer.kind == "buffer" and isinstance(pointer.offset, int) and kind == "maybe":
            kind = "always" if pointer.offset % _ALIGNMENT == 0 else "never"
        return Argument(name, f"*{_type(value.dtype)}", pointer, kind)
    if isinstance(value, (bool, torch.SymBool)):
        return Argument(name, "i1", int(bool(value)))
    if isinstance(value, (int, torch.SymInt)):
        return _integer(parameter, environment.expression(value), environment)
    if isinstance(value, (float, torch.SymFloat)):
        return Argument(name, "fp32", environment.number(value))
    raise UnsupportedOpError(f"the kernel's argument {name} is a {type(value).__name__}, expected a tensor or a number")


def _integer(parameter: Any, value: Extent, environment: Environment) -> Argument | None:
    low, high = environment.limits(value)
    if low == high == 1 and not parameter.do_not_specialize:
        return None
    kind = parameter.annotation_type or _width(value, low, high, environment)
    specialises = not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment)
    divisible = "never"
    if specialises and environment.value(value) % _ALIGNMENT == 0:
        divisible = "always" if isinstance(value, int) else "maybe"
    return Argument(parameter.name, kind, value, divisible)


def _width(value: Extent, low: int, high: int, environment: Environment) -> str:
    """As Triton's JIT chooses it by the value; a region has values of one width."""
    bits32 = -_INT32 <= environment.value(value) < _INT32
    if bits32 != (low >= -_INT32 and high < _INT32):
        inside = sympy.And(sympy.Ge(value, -_INT32), sympy.Lt(value, _INT32))
        environment.add_conditions([inside if bits32 else sympy.Not(inside)])
    return "i32" if bits32 else "i64"


def _type(dtype: torch.dtype) -> str:
    if dtype not in _TYPES:
        raise UnsupportedOpError(f"a kernel takes a tensor of {dtype}, which Triton's kernels in plugins cannot")
    return _TYPES[dtype]
