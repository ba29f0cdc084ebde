"""Peers: other implementations of an op, for the bench."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

Call = Callable[[list[Any]], Any]
Prepare = Callable[[Any, dict[str, Any]], Call]  # from a workload of the op's own class, and its settings
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Missing(Exception):
    """A peer cannot run here, or not this workload; the message has the reason."""


@dataclass(frozen=True)
class Peer:
    """Another implementation of an op.

    prepare: returns the call for a workload, or raises Missing. bound: it computes less, and serves as a bound.
    compiles: for each shape, which takes seconds. waits: for the GPU in every call, so that no CUDA graph takes it.
    default_stream: it launches kernels there, whatever stream is current, so that a CUDA graph lacks them.
    """

    name: str
    op: str
    prepare: Prepare
    bound: bool = False
    compiles: bool = False
    waits: bool = False
    default_stream: bool = False


class Untimed:
    """Preparation of arguments outside the timed calls: the first call with them, which is not timed, runs it."""

    def __init__(self, make: Callable[[list[Any]], Any]) -> None:
        self._make = make
        self._prepared: dict[int, Any] = {}

    def __call__(self, args: list[Any]) -> Any:
        """The prepared arguments, made once per set of arguments."""
        key = id(args[0])
        if key not in self._prepared:
            self._prepared[key] = self._make(args)
        return self._prepared[key]


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function unchanged, for a peer in eager mode."""
    return function


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled by Inductor, for one shape."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def imported(module: str, name: str) -> Any:
    """An attribute of a module. Missing: it cannot be imported here."""
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # of any kind: packages fail in many ways where a GPU or library does not suit them
        raise Missing(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else module}") from error
