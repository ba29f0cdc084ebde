"""From Inductor's lines to the steps of a generated op."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import FloorDiv

from bridge.errors import UnsupportedOpError
from bridge.generate.inductor.graph import TracedGraph
from bridge.generate.inductor.lines import Allocate, Call, Clear, Code, Config, Result, View
from bridge.generate.inductor.rewrites import extent_of, unsupported
from bridge.generate.program import Argument, Buffer, Configuration, Copy, Extent, Launch, Pointer, Region, Step, Zero

_MOST_CONFIGURATIONS = 8  # of a kernel: Inductor's own choice, then those it would measure
_MOST_WARPS = 32  # of a program: 1,024 threads
_LEAST_REDUCED = 512  # elements of a program; 8 or more for each thread


def region_of(code: Code, graph: TracedGraph, indices: Mapping[str, int]) -> Region:
    """indices: of pointers to inputs, by their names in the code.

    UnsupportedOpError: a step of the code is no Triton kernel.
    """
    program = _Program(code, graph, indices)
    steps = tuple(program.steps())
    asked = [*(guard.expr for guard in graph.env.guards), *graph.conditions]
    conditions = dict.fromkeys(in_symbols_of_caller(condition, graph) for condition in asked)
    return Region(tuple(one for one in conditions if one != True), tuple(program.buffers), steps)  # noqa: E712


def in_symbols_of_caller(value: Any, graph: TracedGraph) -> Any:
    """A traced number, extent or condition; a Python number where it is known."""
    if isinstance(value, (bool, float)):
        return value
    expression = extent_of(value).xreplace(graph.symbols)
    if expression.is_Integer:
        return int(expression)
    return float(expression) if expression.is_Float else expression


class _Program:
    """Where in memory each tensor of the code lies."""

    def __init__(self, code: Code, graph: TracedGraph, indices: Mapping[str, int]) -> None:
        self.buffers: list[Buffer] = []
        self._code = code
        self._graph = graph
        self._pointers = {name: Pointer("input", index) for name, index in indices.items()}
        self._bytes: dict[str, Extent] = {}
        self._outputs = _memory_of_outputs(code)

    def steps(self) -> Iterator[Step]:
        for line in self._code.lines:
            if isinstance(line, Allocate):
                self._allocate(line)
            elif isinstance(line, View):
                base = self._pointers[line.base]
                self._pointers[line.name] = Pointer(base.kind, base.index, self._scaled(line.offset, line.dtype))
            elif isinstance(line, Clear):
                yield Zero(self._pointers[line.name], self._bytes[line.name])
            elif isinstance(line, Call):
                yield self._launch(line)
            else:
                raise unsupported(line.node, "Inductor has no Triton kernel for it", line.name)
        yield from self._copies()

    def _allocate(self, line: Allocate) -> None:
        self._bytes[line.name] = self._scaled(line.elements, line.dtype)
        if line.name in self._outputs:
            self._pointers[line.name] = Pointer("output", self._outputs[line.name])
            return
        self._pointers[line.name] = Pointer("buffer", len(self.buffers))
        self.buffers.append(Buffer(self._bytes[line.name]))

    def _copies(self) -> Iterator[Copy]:
        """Those of outputs that lie in the memory of another."""
        for index, (result, tensor) in enumerate(zip(self._code.outputs, self._graph.outputs, strict=True)):
            if result is None or not self._is_contiguous(result):
                raise UnsupportedOpError(f"output {index}: Inductor made no contiguous tensor of it")
            source = self._pointers[result.name]
            if (source.kind, source.index) != ("output", index):
                offset = self._scaled(result.offset, tensor.dtype)
                size = self._scaled(math.prod(map(extent_of, tensor.shape)), tensor.dtype)
                yield Copy(Pointer(source.kind, source.index, offset), Pointer("output", index), size)

    def _is_contiguous(self, result: Result) -> bool:
        """At the examples: the same extent can be written in several ways."""
        shape, strides = (self._graph.at_examples(each) for each in (result.shape, result.strides))
        return strides == tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))

    def _launch(self, call: Call) -> Launch:
        if call.grid not in _GRIDS:
            raise UnsupportedOpError(f"{call.kernel.__name__}: its grid, {call.grid}, is not one of {list(_GRIDS)}")
        configs = sorted(call.configs, key=lambda config: self._wastes_lanes(call, config))
        configs = _with_other_warps(configs)[:_MOST_CONFIGURATIONS]
        names = [name for name in call.kernel.arg_names if name not in configs[0].constants]
        arguments = tuple(self._argument(call, name) for name in names)
        return Launch(call.kernel, arguments, tuple(self._configuration(call, config) for config in configs))

    def _wastes_lanes(self, call: Call, config: Config) -> bool:
        """Whether a program reduces fewer elements than it should: Inductor measures such configurations and drops
        them, and lists them first."""
        rows, width = config.constants.get("XBLOCK"), call.arguments.get("r0_numel")
        if "R0_BLOCK" in config.constants or rows is None or width is None:
            return False
        return int(rows) * self._graph.at_examples([width])[0] < _LEAST_REDUCED

    def _argument(self, call: Call, name: str) -> Argument:
        value, type = call.arguments[name], call.types[name]
        assumed = name in call.divisible
        if not type.startswith("*"):
            return Argument(name, type, self._value(value), "always" if assumed else "never")
        pointer = self._pointers[value]
        # Inductor expects inputs and outputs to be aligned, as torch's are; TensorRT's need not be.
        divisible = "never" if not assumed else "always" if pointer.kind == "buffer" else "maybe"
        return Argument(name, type, pointer, divisible)

    def _configuration(self, call: Call, config: Config) -> Configuration:
        numbers = {name: self._value(value) for name, value in call.arguments.items() if not isinstance(value, str)}
        constants = {name: self._value(value) for name, value in config.constants.items()}
        return Configuration(constants, config.options, _GRIDS[call.grid](numbers | constants))

    def _value(self, value: Any) -> Any:
        return in_symbols_of_caller(value, self._graph) if isinstance(value, (sympy.Basic, torch.SymInt)) else value

    def _scaled(self, elements: Any, dtype: torch.dtype) -> Any:
        return in_symbols_of_caller(elements * dtype.itemsize, self._graph)


def _with_other_warps(configs: Sequence[Config]) -> list[Config]:
    """The configurations, and then what Inductor does not vary by itself: each with half and twice the warps."""
    found = list(configs)
    for config in configs:
        warps = int(config.options.get("num_warps", 4))
        for number in (warps // 2, warps * 2):
            other = Config(config.constants, {**config.options, "num_warps": number})
            if 1 <= number <= _MOST_WARPS and other not in found:
                found.append(other)
    return found


def _memory_of_outputs(code: Code) -> dict[str, int]:
    """The allocations that are outputs, each with the output that begins there."""
    base = {line.name: line.base for line in code.lines if isinstance(line, View)}
    allocated = {line.name for line in code.lines if isinstance(line, Allocate)}
    owners: dict[str, int] = {}
    for index, result in enumerate(code.outputs):
        name = result.name if result is not None and result.offset == 0 else ""
        while name in base:
            name = base[name]
        if name in allocated:
            owners.setdefault(name, index)
    return owners


def _blocks(values: Mapping[str, Any], extent: str, block: str) -> Extent:
    """How many blocks of `block` elements `extent` takes."""
    numel, size = values[extent], values.get(block) or 1
    if size == 1:
        return numel
    blocks = FloorDiv(sympy.sympify(numel) + size - 1, size)
    return int(blocks) if blocks.is_Integer else blocks


def _overflowing(values: Mapping[str, Any]) -> tuple[Extent, Extent, Extent]:
    """y may be more than a grid's y can be: its rest goes into z."""
    y = sympy.sympify(_blocks(values, "ynumel", "YBLOCK"))
    z = FloorDiv(y + _MOST_Y - 1, _MOST_Y)
    return _blocks(values, "xnumel", "XBLOCK"), FloorDiv(y + z - 1, z), z


_MOST_Y = 65535
# Inductor's names for how programs are counted.
_GRIDS: dict[str, Callable[[Mapping[str, Any]], tuple[Extent, Extent, Extent]]] = {
    "Grid1D": lambda v: (_blocks(v, "xnumel", "XBLOCK"), 1, 1),
    "Grid2D": lambda v: (_blocks(v, "xnumel", "XBLOCK"), _blocks(v, "ynumel", "YBLOCK"), 1),
    "Grid3D": lambda v: (
        _blocks(v, "xnumel", "XBLOCK"),
        _blocks(v, "ynumel", "YBLOCK"),
        _blocks(v, "znumel", "ZBLOCK"),
    ),
    "BatchMatmulGrid3D": lambda v: (
        _blocks(v, "znumel", "ZBLOCK"),
        _blocks(v, "ynumel", "YBLOCK"),
        _blocks(v, "xnumel", "XBLOCK"),
    ),
    "Grid2DWithYZOverflow": _overflowing,
    "MixOrderReductionGrid": lambda v: (_blocks(v, "xnumel", "RSPLIT_SIZE"), 1, 1),
    "SplitScanGrid": lambda v: (_blocks(v, "r0_numel", "R0_BLOCK"), v["xnumel"], 1),
}
