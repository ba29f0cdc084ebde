"""What Inductor makes of a graph, as data: memory, and launches of kernels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.fx import Node


@dataclass(frozen=True)
class Allocate:
    """Memory for a tensor."""

    name: str
    dtype: torch.dtype
    elements: Any


@dataclass(frozen=True)
class Clear:
    """A tensor is filled with zero bytes."""

    name: str


@dataclass(frozen=True)
class View:
    """Another name for the memory of `base`. offset: in elements of `dtype`, from the start of that memory."""

    name: str
    base: str
    dtype: torch.dtype
    offset: Any


@dataclass(frozen=True)
class Config:
    """One way to launch a kernel: its constexpr parameters, and what Triton compiles it with."""

    constants: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """A launch. arguments: by parameter, a tensor's name, a number or an expression. types: as Triton spells them.

    divisible: the parameters that Inductor takes for multiples of 16. grid: its name for how programs are counted.
    """

    kernel: Any
    arguments: Mapping[str, Any]
    types: Mapping[str, str]
    divisible: frozenset[str]
    configs: tuple[Config, ...]
    grid: str


@dataclass(frozen=True)
class Foreign:
    """A step that is no Triton kernel. node: the operator in the graph, where it is known."""

    name: str
    node: Node | None


@dataclass(frozen=True)
class Result:
    """An output: a tensor's name, and where in its memory it lies."""

    name: str
    offset: Any
    shape: tuple[Any, ...]
    strides: tuple[Any, ...]


Line: TypeAlias = Allocate | Clear | View | Call | Foreign


@dataclass(frozen=True)
class Code:
    """What Inductor made of a graph. outputs: None where one is no tensor in memory."""

    lines: tuple[Line, ...]
    inputs: tuple[str, ...]
    outputs: tuple[Result | None, ...]
