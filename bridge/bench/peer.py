"""What a peer is: what others have for a workload, as a function from arguments to a call."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

Call = Callable[[list[Any]], Any]
Prepare = Callable[[Any, dict[str, Any]], Call]  # of a workload of the op's own class, and its settings
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Missing(Exception):
    """A peer cannot run here, or not this workload; the message says why."""


@dataclass(frozen=True)
class Peer:
    """prepare: gives the call for a workload, or raises Missing. bound: it computes less, and is only a bound."""

    name: str
    op: str
    prepare: Prepare
    bound: bool = False


class Once:
    """What is made of the arguments outside the time: in the first call with them, which is not timed."""

    def __init__(self, make: Callable[[list[Any]], Any]) -> None:
        self._make = make
        self._made: dict[int, Any] = {}

    def __call__(self, args: list[Any]) -> Any:
        """The same for the same arguments."""
        key = id(args[0])
        if key not in self._made:
            self._made[key] = self._make(args)
        return self._made[key]


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """As it is, for a peer in eager mode."""
    return function


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """By Inductor, for one shape."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def imported(module: str, name: str) -> Any:
    """A name of a module. Missing: that cannot be imported here."""
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # of any kind: packages fail in their own ways where a GPU or library is not theirs
        raise Missing(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else module}") from error
