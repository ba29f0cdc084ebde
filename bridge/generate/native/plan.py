"""What is generated for an instance: its compiled kernels under names of C++, and the memory that a run needs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import sympy

from bridge.errors import UnsupportedOpError
from bridge.generate.native import triton_private
from bridge.generate.native.buffers import with_shared_buffers
from bridge.generate.native.canonical import MOST_LETTERS, canonical, identifier, plugin_name
from bridge.generate.native.expressions import Ranges, bounds
from bridge.generate.native.fatbinary import fat_binary
from bridge.generate.native.kernels import Library, Source, variants
from bridge.generate.native.parameters import attributes_of, tensors_of
from bridge.generate.native.triton_private import Compiled
from bridge.generate.program import Configuration, Extent, Instance, Launch, Region

ALIGNMENT = 256
"""Of buffers, in bytes; csrc/triton/queue.h has the same number."""
MOST_TACTICS = 64
"""csrc/triton/queue.h has the same number."""


@dataclass(frozen=True)
class Kernel:
    """One fat binary. name: in C++, and of its file; code: by compute capability."""

    name: str
    source: Source
    code: Mapping[int, Compiled]

    @cached_property
    def fat_binary(self) -> bytes:
        """The code of every capability, compressed."""
        return fat_binary({capability: code.cubin for capability, code in self.code.items()}, self.name)


@dataclass(frozen=True)
class Choice:
    """A configuration of a launch, with its kernels."""

    configuration: Configuration
    divisible: Kernel
    aligned: Kernel
    general: Kernel

    @property
    def kernels(self) -> tuple[Kernel, Kernel, Kernel]:
        """The three, the fastest first; see kernels.Variants."""
        return self.divisible, self.aligned, self.general


@dataclass(frozen=True)
class Choices:
    """Configurations that launches have in common. name: in C++."""

    name: str
    all: tuple[Choice, ...]


class Plan:
    """An instance, in canonical form, with all that its source text needs.

    tactics: see `build`.

    Raises:
        BuildError: a kernel does not compile.
        UnsupportedOpError: it cannot be a plugin.
    """

    def __init__(self, instance: Instance, library: Library, tactics: bool = True) -> None:
        self.name = plugin_name(instance)
        self.instance = with_shared_buffers(canonical(instance))
        self.tensors = tensors_of(self.instance)
        self.attributes = attributes_of(self.instance)
        self._library = library
        self._kernels: dict[str, Kernel] = {}
        self._choices: dict[tuple[str, ...], Choices] = {}
        self._of_launch: dict[int, Choices] = {}
        self._tactics = tactics
        self._compile()
        for launch in self.launches():
            self._of_launch[id(launch)] = self._choose(launch)

    @property
    def kernels(self) -> list[Kernel]:
        """Every kernel once."""
        return list(self._kernels.values())

    @property
    def choices(self) -> list[Choices]:
        """Every set of configurations once."""
        return list(self._choices.values())

    def launches(self) -> Iterator[Launch]:
        """Those of all regions, in order."""
        for region in self.instance.regions:
            yield from launches_of(region)

    def choices_of(self, launch: Launch) -> Choices:
        """The configurations of a launch that are left."""
        return self._of_launch[id(launch)]

    def tuned(self, region: Region) -> list[Launch]:
        """The launches whose configuration is chosen by the tactic: its digits, the least first."""
        return [launch for launch in launches_of(region) if len(self.choices_of(launch).all) > 1]

    @cached_property
    def ranges(self) -> Ranges:
        """Least and greatest value of every symbol."""
        return {each.symbol: (each.low, each.high) for each in self.instance.symbols}

    @cached_property
    def workspace_bytes(self) -> int:
        """Enough for every shape in the profile: the greatest sum of all regions, each part at its own greatest.

        Sizes need not grow with extents, so those at the greatest extents might not suffice.
        """
        return max((self._bytes_of(region) for region in self.instance.regions), default=0)

    def _bytes_of(self, region: Region) -> int:
        ranges = narrowed(self.ranges, region.conditions)
        buffers = sum(_aligned(bounds(buffer.bytes, ranges)[1]) for buffer in region.buffers)
        return buffers + max((self._scratch_of(launch, ranges) for launch in launches_of(region)), default=0)

    def _scratch_of(self, launch: Launch, ranges: Ranges) -> int:
        """Of Triton's own memory, which it has for every program."""
        most = 0
        for choice in self.choices_of(launch).all:
            codes = [code for kernel in choice.kernels for code in kernel.code.values()]
            bytes_each = max(code.scratch_bytes for code in codes)
            if bytes_each:
                most = max(most, _aligned(bytes_each * bounds(sympy.prod(choice.configuration.grid), ranges)[1]))
        return most

    def _compile(self) -> None:
        """What `_choose` asks for: all configurations at once, or one after another until one fits."""
        if self._tactics:
            self._library.compile(source for launch in self.launches() for source in sources_of(launch))
            return
        launches, rank = list(self.launches()), 0
        while launches:
            pairs = [(launch, variants(launch, launch.configurations[rank]).all) for launch in launches]
            self._library.compile(source for _, sources in pairs for source in sources)
            rank += 1
            launches = [
                launch
                for launch, sources in pairs
                if rank < len(launch.configurations) and not self._library.fits(sources)
            ]

    def _choose(self, launch: Launch) -> Choices:
        """The configurations of a launch that some target has code for; every target has code for one."""
        tuned = len(launch.configurations) > 1
        found = []
        lacking = set(self._library.capabilities)
        for configuration in launch.configurations:
            pair = variants(launch, configuration)
            codes = [self._library.code(source, tuned) for source in pair.all]
            if common := set.intersection(*map(set, codes)):
                kernels = (self._kernel(source, code) for source, code in zip(pair.all, codes, strict=True))
                found.append(Choice(configuration, *kernels))
                lacking -= common
                if not self._tactics and not lacking:
                    break
        if lacking:
            raise self._library.none_left(variants(launch, launch.configurations[0]), min(lacking))
        key = tuple(kernel.name for each in found for kernel in each.kernels)
        if key not in self._choices:
            name = f"{_function(launch)}_{len(self._choices)}_configurations"
            self._choices[key] = Choices(name, tuple(found))
        return Choices(self._choices[key].name, tuple(found))  # grids are the launch's own

    def _kernel(self, source: Source, code: Mapping[int, Compiled]) -> Kernel:
        if source.key not in self._kernels:
            name = f"{identifier(triton_private.name_of(source.kernel))[:MOST_LETTERS]}_{len(self._kernels)}"
            for each in code.values():
                if each.scratch_align > ALIGNMENT:
                    raise UnsupportedOpError(
                        f"kernel {source} needs scratch memory aligned to {each.scratch_align} bytes"
                    )
            self._kernels[source.key] = Kernel(name, source, code)
        return self._kernels[source.key]


def sources_of(launch: Launch) -> Iterator[Source]:
    """What the kernels of a launch are compiled from."""
    for configuration in launch.configurations:
        yield from variants(launch, configuration).all


def launches_of(region: Region) -> list[Launch]:
    """The launches among a region's steps."""
    return [step for step in region.steps if isinstance(step, Launch)]


def narrowed(ranges: Ranges, conditions: Sequence[sympy.Basic]) -> Ranges:
    """The ranges of symbols where conditions hold, as far as these compare a symbol with a number."""
    result = dict(ranges)
    for condition in conditions:
        for part in condition.args if isinstance(condition, sympy.And) else (condition,):
            if isinstance(part, sympy.core.relational.Relational):
                _narrow(result, part)
    return result if all(low <= high for low, high in result.values()) else ranges


def _narrow(ranges: dict[sympy.Symbol, tuple[int, int]], condition: sympy.core.relational.Relational) -> None:
    relation = condition if condition.rhs.is_Integer else condition.reversed
    symbol, number = relation.lhs, relation.rhs
    if symbol not in ranges or not number.is_Integer:
        return
    low, high = ranges[symbol]
    value = int(number)
    most = {"<": value - 1, "<=": value, "==": value}.get(relation.rel_op, high)
    least = {">": value + 1, ">=": value, "==": value}.get(relation.rel_op, low)
    ranges[symbol] = (max(low, least), min(high, most))


def _function(launch: Launch) -> str:
    return identifier(triton_private.name_of(launch.kernel))


def _aligned(count: Extent) -> int:
    return -(-int(count) // ALIGNMENT) * ALIGNMENT
