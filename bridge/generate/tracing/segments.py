"""Operators of torch between Triton kernels: Inductor writes kernels for them.

A segment is what a recording computes from one launch to the next. Its inputs are the memory that it reads, its outputs
the memory that is read after it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from bridge.errors import UnsupportedOpError
from bridge.generate.inductor import lower
from bridge.generate.pointers import moved
from bridge.generate.program import Copy, Pointer, Step
from bridge.generate.tracing.recording import Computed, Recording, Updated, Viewed
from bridge.generate.tracing.steps import Memory
from bridge.generate.tracing.symbols import Environment, evaluate
from bridge.generate.tracing.triton_launches import CaughtLaunch


def steps(
    computed: Sequence[Computed], recording: Recording, end: int, memory: Memory, environment: Environment
) -> Iterator[Step]:
    """The steps of a segment. end: the place of the first event after it."""
    segment = _Segment(computed, recording)
    results = list(_read_after(computed, recording, end))
    targets = [memory.pointer(_at_start(each)) for each in results]
    yield from _lowered_steps(segment, results, targets, memory, environment)


def update_steps(update: Updated, recording: Recording, memory: Memory, environment: Environment) -> Iterator[Step]:
    """The steps of an operator that writes into memory: what it makes of all of it, and a copy of that into it."""
    base = recording.storage_of(update.target).tensor
    made = memory.add_buffer(environment.bytes(_dense(base)))
    segment = _Segment([], recording, update=update)
    yield from _lowered_steps(segment, [base], [made], memory, environment)
    yield Copy(made, memory.pointer(_at_start(base)), environment.bytes(_dense(base)))


def copy_steps(
    result: torch.Tensor, target: Pointer, recording: Recording, memory: Memory, environment: Environment
) -> Iterator[Step]:
    """The steps that make a tensor contiguous, in the memory of `target`."""
    yield from _lowered_steps(_Segment([], recording, contiguous=True), [result], [target], memory, environment)


def _lowered_steps(
    segment: "_Segment",
    results: Sequence[torch.Tensor],
    targets: Sequence[Pointer],
    memory: Memory,
    environment: Environment,
) -> Iterator[Step]:
    sources = segment.sources(results)
    types = [environment.type_of(_dense(each)) for each in sources]
    symbols = environment.symbols_at_example()

    def replay(*values: Any) -> tuple[torch.Tensor, ...]:
        tensors = dict(zip(map(id, sources), values, strict=False))
        integers = dict(zip((each.symbol for each in symbols), values[len(sources) :], strict=True))
        return segment.replay(results, tensors, lambda value: evaluate(environment.expression(value), integers))

    lowered = lower(replay, [*types, *(each.symbol for each in symbols)], symbols, any_dtype=True)
    environment.add_conditions(lowered.region.conditions)
    places = {("input", index): memory.pointer(_at_start(each)) for index, each in enumerate(sources)}
    places |= {("output", index): target for index, target in enumerate(targets)}
    places |= {("buffer", index): memory.add_buffer(each.bytes) for index, each in enumerate(lowered.region.buffers)}
    for step in lowered.region.steps:
        yield moved(step, places)


class _Segment:
    """The operators of a segment, by the tensors that they make.

    contiguous: results are, whatever torch makes them. update: is done to a copy of the memory that is the result.
    """

    def __init__(
        self,
        computed: Sequence[Computed],
        recording: Recording,
        contiguous: bool = False,
        update: Updated | None = None,
    ) -> None:
        self._recording = recording
        self._contiguous = contiguous
        self._update = update
        self._orders: dict[int, list[int]] = {}
        own = {id(each) for each in computed}
        self._makers: dict[int, Computed | Viewed] = {}
        for event in recording.events:
            if isinstance(event, Viewed) or (isinstance(event, Computed) and id(event) in own):
                self._makers |= dict.fromkeys(map(id, _tensors(event.result)), event)

    def sources(self, results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors that the results are computed from: each lies at the start of memory, and is all of it."""
        found: dict[int, torch.Tensor] = {}
        seen: set[int] = set()
        pending = [*results, *_tensors(() if self._update is None else (self._update.args, self._update.kwargs))]
        while pending:
            tensor = pending.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if (maker := self._makers.get(id(tensor))) is not None:
                pending += _tensors((maker.args, maker.kwargs))
            else:
                base = self._recording.storage_of(tensor).tensor
                found[id(base)] = base
        ordered = list(found.values()) if self._contiguous else [*found.values(), *results]
        self._orders = {id(each): _order(each) for each in ordered}  # asks the tensors, which a replay would trace
        return list(found.values())

    def replay(self, results: Sequence[torch.Tensor], values: dict[int, Any], integer: Any) -> tuple[Any, ...]:
        """The results, computed from values of the sources, as contiguous tensors of the same memory."""
        known = {key: self._as_stored(key, value) for key, value in values.items()}

        def within(base: Any, tensor: torch.Tensor) -> Any:
            place = (tensor.shape, tensor.stride(), tensor.storage_offset())
            return base.as_strided(*tree_map(integer, place))

        def value_of(tensor: torch.Tensor) -> Any:
            if id(tensor) in known:
                return known[id(tensor)]
            maker = self._makers.get(id(tensor))
            if maker is None:
                return within(value_of(self._recording.storage_of(tensor).tensor), tensor)
            args, kwargs = tree_map(convert, (list(maker.args), dict(maker.kwargs)))
            made = maker.operator(*args, **kwargs)
            for old, new in zip(_tensors(maker.result), _tensors(made), strict=True):
                known[id(old)] = new
            return known[id(tensor)]

        def convert(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value_of(value)
            if isinstance(value, torch.device):
                return torch.device("cpu")  # where Inductor's front end traces
            return integer(value) if isinstance(value, torch.SymInt) else value

        if self._update is not None:
            (base,) = results
            copy = value_of(base).clone()
            args, kwargs = tree_map(convert, (list(self._update.args[1:]), dict(self._update.kwargs)))
            self._update.operator(within(copy, self._update.target), *args, **kwargs)
            return (copy.permute(self._orders[id(base)]),)
        if self._contiguous:
            return tuple(value_of(each).contiguous() for each in results)
        return tuple(value_of(each).permute(self._orders[id(each)]) for each in results)

    def _as_stored(self, key: int, value: Any) -> Any:
        """A source's value in the order of its dimensions, which memory may have otherwise."""
        order = self._orders[key]
        return value.permute([order.index(axis) for axis in range(len(order))])


def _read_after(computed: Sequence[Computed], recording: Recording, end: int) -> Iterator[torch.Tensor]:
    """The tensors of a segment whose memory is read later, or is a result."""
    later = [tensor for event in recording.events[end:] for tensor in _tensors(_arguments(event))]
    read = {id(recording.storage_of(each)) for each in [*later, *recording.results] if recording.knows(each)}
    for event in computed:
        for tensor in _tensors(event.result):
            if id(recording.storage_of(tensor)) in read:
                yield tensor


def _arguments(event: Any) -> Any:
    if isinstance(event, CaughtLaunch):
        return [dict(each.arguments) for each in event.configurations]
    return [getattr(event, name) for name in ("args", "kwargs", "source", "tensor", "target") if hasattr(event, name)]


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _at_start(tensor: torch.Tensor) -> torch.Tensor:
    if not (isinstance(tensor.storage_offset(), int) and tensor.storage_offset() == 0):
        raise UnsupportedOpError(
            f"an operator makes a tensor of shape {list(tensor.shape)} that begins within another's memory"
        )
    return tensor


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(_order(tensor))


def _order(tensor: torch.Tensor) -> list[int]:
    """The dimensions from the outermost to the innermost in memory. UnsupportedOpError: there are gaps."""
    strides = [stride if isinstance(stride, int) else stride.node.hint for stride in tensor.stride()]
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    if not tensor.is_contiguous() and not tensor.permute(order).is_contiguous():
        raise UnsupportedOpError(f"an operator makes a tensor of shape {list(tensor.shape)} with gaps in its memory")
    return list(range(tensor.dim())) if tensor.is_contiguous() else order
