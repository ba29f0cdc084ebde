"""A generated op as data: what its plugin checks, allocates and launches, in expressions of the inputs' extents.

The front ends (`tracing`, `inductor`) make it, the back end (`emit`) writes it as an op struct in C++.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch

Extent: TypeAlias = sympy.Expr | int
"""A number, or an expression over symbols of the instance; never negative where it is a size."""


@dataclass(frozen=True)
class Symbol:
    """A number that is known when the plugin runs: an extent of an input, `axis` of `input`.

    low, high: both included; the profile's. example: what kernels are tuned for, the profile's optimum.
    """

    symbol: sympy.Symbol
    input: int
    axis: int
    low: int
    high: int
    example: int


@dataclass(frozen=True)
class TensorType:
    """A contiguous tensor of the plugin's. shape: numbers, and expressions of symbols."""

    dtype: torch.dtype
    shape: tuple[Extent, ...]


@dataclass(frozen=True)
class Buffer:
    """Scratch memory of one run, aligned to 256 bytes."""

    bytes: Extent


@dataclass(frozen=True)
class Pointer:
    """An address. kind: "input", "output" or "buffer", and which of them; offset: in bytes from its start."""

    kind: str
    index: int
    offset: Extent = 0


@dataclass(frozen=True)
class Argument:
    """An argument of a kernel that is passed when it is launched.

    name: the kernel's parameter. type: as Triton's signatures spell it: "*fp16", "i32", "i64", "fp32", "i1", "u8".
    value: a Pointer for a type with a star; else a number or an expression, for a float type computed in float64.
    divisible: by 16, and if so with faster code: "always", "maybe" (found out at run time), "never".
    """

    name: str
    type: str
    value: Pointer | Extent | float
    divisible: str = "never"


@dataclass(frozen=True)
class Configuration:
    """One way to launch a kernel.

    constants: its constexpr parameters, and others that are known, such as None and 1, by name.
    options: what Triton compiles with: num_warps, num_stages, num_ctas, maxnreg ... grid: programs along x, y and z.
    """

    constants: Mapping[str, Any]
    options: Mapping[str, Any]
    grid: tuple[Extent, Extent, Extent]


@dataclass(frozen=True)
class Launch:
    """Launches a kernel.

    kernel: a triton.runtime.JITFunction. arguments: in the order of the kernel's parameters, without those of
    `constants`. configurations: more than one where the kernel is autotuned, the first is the default.
    """

    kernel: Any
    arguments: tuple[Argument, ...]
    configurations: tuple[Configuration, ...]


@dataclass(frozen=True)
class Zero:
    """Fills memory with zero bytes."""

    pointer: Pointer
    bytes: Extent


@dataclass(frozen=True)
class Copy:
    """Copies bytes."""

    source: Pointer
    target: Pointer
    bytes: Extent


Step = Launch | Zero | Copy


@dataclass(frozen=True)
class Region:
    """What is done where its conditions hold; those of several regions are tried in their order.

    conditions: relations between symbols, all of which must hold. buffers: of Pointer.kind "buffer".
    """

    conditions: tuple[sympy.Basic, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Instance:
    """An operator as one model calls it: one plugin.

    operator: such as "acme::norm". schema: of the operator, as torch.library spells it, without the namespace and
    with `name` for its name: "norm_1a2b3c(Tensor x, float eps=1e-06) -> Tensor". inputs: by the order of the schema,
    None where an optional tensor is absent; plugins get the attributes, whose values are baked into the regions, and
    refuse others.
    """

    operator: str
    schema: str
    inputs: tuple[TensorType | None, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[TensorType, ...]
    symbols: tuple[Symbol, ...]
    regions: tuple[Region, ...]

    def region_at(self, extents: Mapping[sympy.Symbol, int]) -> Region | None:
        """The region that takes extents, by symbol: the first whose conditions hold. None: none does."""
        values = {symbol: sympy.Integer(value) for symbol, value in extents.items()}
        return next((each for each in self.regions if all(bool(c.xreplace(values)) for c in each.conditions)), None)
