"""Runs a function on fake tensors and records, in order, what it allocates, computes and launches.

A recording is made at one example of the symbolic extents; the guards that it adds to the ShapeEnv say where it holds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bridge.errors import UnsupportedOpError
from bridge.generate.tracing.fake_indexing import FakeIndexing
from bridge.generate.tracing.triton_launches import CaughtLaunch, catching_launches

aten = torch.ops.aten

ALLOCATIONS = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
_ZEROED = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default}
_FREE = {torch.ops.prim.device.default, aten.sym_size.int, aten.sym_stride.int, aten.sym_numel.default}
BY_VALUES = "the shape of its result, or a branch of the function, depends on values"


@dataclass(frozen=True)
class Storage:
    """Memory of the recording. kind: "input" or "buffer", and which of them. tensor: one that lies at its start."""

    kind: str
    index: int
    tensor: torch.Tensor


@dataclass(frozen=True)
class _Operation:
    """A call of an ATen operator."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Computed(_Operation):
    """One that computes: new tensors from others."""

    result: Any


@dataclass(frozen=True)
class Viewed(_Operation):
    """One whose result is memory of an argument."""

    result: Any


@dataclass(frozen=True)
class Updated(_Operation):
    """One that writes into its first argument, `target`, in a way that no step has."""

    target: torch.Tensor


@dataclass(frozen=True)
class Zeroed:
    """A tensor whose memory is filled with zeros."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Copied:
    """A contiguous tensor's bytes go to another."""

    source: torch.Tensor
    target: torch.Tensor


Event = Computed | Viewed | Updated | Zeroed | Copied | CaughtLaunch


@dataclass
class Recording:
    """events: in order. results: of the function."""

    events: list[Event] = field(default_factory=list)
    results: list[torch.Tensor] = field(default_factory=list)
    _by_key: dict[int, Storage] = field(default_factory=dict)

    @property
    def launches(self) -> bool:
        """Whether the function launches a kernel itself."""
        return any(isinstance(event, CaughtLaunch) for event in self.events)

    def storage_of(self, tensor: torch.Tensor) -> Storage:
        """The memory that a tensor lies in. KeyError: the recording does not know it."""
        return self._by_key[_key(tensor)]

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies in memory of the recording."""
        return _key(tensor) in self._by_key

    def add_input(self, index: int, tensor: torch.Tensor) -> None:
        """Takes in the memory of an argument; of two that share it, the first counts."""
        self._by_key.setdefault(_key(tensor), Storage("input", index, tensor))

    def add_buffer(self, tensor: torch.Tensor) -> None:
        """Takes memory in that the function allocated."""
        if not self.knows(tensor):
            count = sum(storage.kind == "buffer" for storage in self._by_key.values())
            self._by_key[_key(tensor)] = Storage("buffer", count, tensor)


def record(
    body: Callable[..., Any],
    inputs: Sequence[torch.Tensor | None],
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
) -> Recording | None:
    """Records one call of a function; None: it launches no kernel.

    inputs: the fake tensors among the arguments, None for an absent one.

    UnsupportedOpError: the function does what a plugin cannot, such as to read a value of a tensor.
    """
    recording = Recording()
    for index, tensor in enumerate(inputs):
        if tensor is not None:
            recording.add_input(index, tensor)
    catching = catching_launches(recording.events.append)
    with catching as catcher, _Recorder(recording), FakeIndexing(), torch.no_grad():
        try:
            results = run_eagerly(body, arguments, keywords)
        except Exception:
            if catcher.tried:
                raise
            return None  # Inductor's front end may understand it, or says why not
    if not recording.launches:
        return None
    recording.results = list(results) if isinstance(results, (tuple, list)) else [results]
    return recording


def run_eagerly(body: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Calls a function; what it has under torch.compile runs as written."""
    with torch.compiler.set_stance("force_eager"):
        return body(*arguments, **keywords)


class _Recorder(TorchDispatchMode):
    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            result = func(*args, **kwargs)
        except (GuardOnDataDependentSymNode, DataDependentOutputException) as error:
            raise UnsupportedOpError(f"{func}: {BY_VALUES}") from error
        self._take(func, args, kwargs, result)
        return result

    def _take(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        recording = self._recording
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if not tensors or func in _FREE:
            return
        if func._schema.is_mutable:
            self._write(func, args, kwargs)
        elif func in ALLOCATIONS:
            recording.add_buffer(tensors[0])
        elif func in _ZEROED:
            recording.add_buffer(tensors[0])
            recording.events.append(Zeroed(tensors[0]))
        elif all(recording.knows(tensor) for tensor in tensors):
            recording.events.append(Viewed(func, args, kwargs, result))
        elif func is aten.clone.default and _same_layout(args[0], tensors[0]):
            recording.add_buffer(tensors[0])
            recording.events.append(Copied(args[0], tensors[0]))
        else:
            for tensor in tensors:
                recording.add_buffer(tensor)
            recording.events.append(Computed(func, args, kwargs, result))

    def _write(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        target = args[0]
        zero = func is aten.zero_.default or (func is aten.fill_.Scalar and args[1] == 0)
        if zero and target.is_contiguous():
            self._recording.events.append(Zeroed(target))
        elif func is aten.copy_.default and _same_layout(args[1], target):
            self._recording.events.append(Copied(args[1], target))
        else:
            self._recording.events.append(Updated(func, args, kwargs, target))


def _same_layout(source: Any, target: torch.Tensor) -> bool:
    """Whether two tensors have the same bytes in the same order."""
    return (
        isinstance(source, torch.Tensor)
        and source.dtype == target.dtype
        and source.shape == target.shape
        and bool(source.is_contiguous() and target.is_contiguous())
    )


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
