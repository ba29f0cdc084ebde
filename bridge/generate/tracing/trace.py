"""Traces the body of an operator at one example of its extents: a Region, and the outputs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import tree_map

from bridge.errors import BridgeError, UnsupportedOpError
from bridge.generate.inductor import lower
from bridge.generate.program import Copy, Extent, Pointer, Region, Step, Symbol, TensorType, Zero
from bridge.generate.tracing import segments
from bridge.generate.tracing.recording import (
    BY_VALUES,
    Computed,
    Copied,
    Event,
    Recording,
    Updated,
    Viewed,
    Zeroed,
    record,
)
from bridge.generate.tracing.steps import Memory, launch_step
from bridge.generate.tracing.symbols import Environment, evaluate
from bridge.generate.tracing.triton_launches import CaughtLaunch
from bridge.graph import control_flow

Body = Callable[..., Any]


@dataclass(frozen=True)
class Traced:
    """A region, and the outputs at its extents."""

    region: Region
    outputs: tuple[TensorType, ...]


@dataclass(frozen=True)
class Axis:
    """A dynamic dimension of a model. low, high: both included. sure: from here on the model is known to have it."""

    symbol: sympy.Symbol
    low: int
    high: int
    example: int
    sure: int


@dataclass(frozen=True)
class Call:
    """How a model calls an operator. body: what it does, in Python. arguments, keywords: in the order of the schema;
    a tensor is an `Input`, and a number that depends on extents a `Scalar`. names: of the inputs. axes: what the model
    may vary, of which the symbols are the expressions `extents`; without them, the symbols themselves."""

    operator: str
    body: Body
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    inputs: tuple[TensorType | None, ...]
    symbols: tuple[Symbol, ...]
    names: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    extents: Mapping[sympy.Symbol, sympy.Expr] = field(default_factory=dict)

    def schema(self, outputs: int) -> str:
        """Of the plugin: the tensors of the call, each of which it needs."""
        tensors = ", ".join(f"Tensor {name}" for name in self.names)
        results = ", ".join(["Tensor"] * outputs)
        return f"{self.operator}({tensors}) -> {results if outputs == 1 else f'({results})'}"

    def filled(self, tensors: Sequence[torch.Tensor | None], integer: Callable[[Extent], Any]) -> Any:
        """The arguments and the keywords, with tensors and integers in their places."""

        def fill(value: Any) -> Any:
            if isinstance(value, Input):
                return tensors[value.index]
            return integer(value.value) if isinstance(value, Scalar) else value

        given = list(self.arguments), dict(self.keywords)
        return tree_map(fill, given, is_leaf=lambda each: isinstance(each, (Input, Scalar)))

    def computed(self, function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Any:
        """What a function makes of the call with these tensors, whose extents are numbers."""
        extents = {each.symbol: tensors[each.input].shape[each.axis] for each in self.symbols}
        args, kwargs = self.filled(tensors, lambda extent: evaluate(extent, extents))
        return function(*args, **kwargs)


@dataclass(frozen=True)
class Input:
    """The place of a tensor among a call's arguments."""

    index: int


@dataclass(frozen=True)
class Scalar:
    """A number among a call's arguments: an expression of its symbols."""

    value: Extent


def trace(call: Call, example: Mapping[sympy.Symbol, int]) -> Traced:
    """Traces a call with the extents of an example.

    UnsupportedOpError: the body does what a plugin cannot; the message names the operator.
    """
    environment = Environment(call.symbols, example)
    with environment.tracing():
        inputs = [None if each is None else environment.tensor(each) for each in call.inputs]
        with _explaining(call):
            arguments, keywords = call.filled(inputs, environment.integer)
            recording = record(call.body, inputs, arguments, keywords)
            if recording is None:
                return _written_by_inductor(call, environment)
            outputs = tuple(environment.type_of(each) for each in _checked(recording.results))
            memory = Memory(recording, environment, call.names)
            steps = list(_steps(recording, memory, environment))
            steps += _copied_results(recording, memory, environment)
        return Traced(Region(environment.conditions(), tuple(memory.buffers), tuple(steps)), outputs)


def _written_by_inductor(call: Call, environment: Environment) -> Traced:
    """The region of a body without kernels of its own: Inductor writes all of them."""
    symbols = environment.symbols_at_example()

    def body(*values: Any) -> Any:
        tensors, integers = values[: len(call.inputs)], values[len(call.inputs) :]
        known = dict(zip((each.symbol for each in symbols), integers, strict=True))
        args, kwargs = call.filled(tensors, lambda extent: evaluate(extent, known))
        return call.body(*args, **kwargs)

    lowered = lower(body, [*call.inputs, *(each.symbol for each in symbols)], symbols)
    return Traced(lowered.region, lowered.outputs)


def _checked(results: Sequence[Any]) -> Sequence[torch.Tensor]:
    for result in results:
        if not isinstance(result, torch.Tensor):
            raise UnsupportedOpError(f"it returns {type(result).__name__}, expected tensors")
    return results


@contextlib.contextmanager
def _explaining(call: Call) -> Iterator[None]:
    """Errors of the body name the operator; those that are not bridge's become an UnsupportedOpError."""
    try:
        yield
    except UnsupportedOpError as error:
        raise UnsupportedOpError(f"{call.operator} cannot become a plugin: {error}") from error
    except BridgeError:
        raise
    except GuardOnDataDependentSymNode as error:
        raise UnsupportedOpError(f"{call.operator} cannot become a plugin: {BY_VALUES}: {_first(error)}") from error
    except Exception as error:
        if reason := control_flow.refusal_of_failure(error):
            raise UnsupportedOpError(f"{call.operator} cannot become a plugin: {reason}") from error
        shapes = ", ".join(str(list(each.shape)) for each in call.inputs if each is not None)
        raise UnsupportedOpError(
            f"{call.operator} cannot become a plugin: its body fails for inputs {shapes}, on fake tensors:"
            f" {type(error).__name__}: {_first(error)}"
        ) from error


def _first(error: Exception) -> str:
    """The first line of a message; torch adds frames of C++ and hints of its own."""
    return str(error).strip().partition("\n")[0]


def _steps(recording: Recording, memory: Memory, environment: Environment) -> Iterator[Step]:
    pending: list[Computed] = []
    for index, event in enumerate(recording.events):
        if isinstance(event, Computed):
            pending.append(event)
        elif not isinstance(event, Viewed):
            yield from _segment(pending, recording, index, memory, environment)
            yield from _step(event, recording, memory, environment)
    yield from _segment(pending, recording, len(recording.events), memory, environment)


def _segment(
    pending: list[Computed], recording: Recording, end: int, memory: Memory, environment: Environment
) -> Iterator[Step]:
    """The steps of operators that stand between kernels; empties `pending`."""
    if pending:
        yield from segments.steps(list(pending), recording, end, memory, environment)
        pending.clear()


def _step(event: Event, recording: Recording, memory: Memory, environment: Environment) -> Iterator[Step]:
    if isinstance(event, Zeroed):
        yield Zero(memory.pointer(event.tensor), environment.bytes(event.tensor))
    elif isinstance(event, Copied):
        yield Copy(memory.pointer(event.source), memory.pointer(event.target), environment.bytes(event.source))
    elif isinstance(event, CaughtLaunch):
        yield launch_step(event, memory, environment)
    elif isinstance(event, Updated):
        yield from segments.update_steps(event, recording, memory, environment)


def _copied_results(recording: Recording, memory: Memory, environment: Environment) -> Iterator[Step]:
    """Copies of those results that do not lie in an output's memory already."""
    for index, result in enumerate(recording.results):
        target = Pointer("output", index)
        if memory.is_output(result, index):
            continue
        if result.is_contiguous():
            yield Copy(memory.pointer(result), target, environment.bytes(result))
        else:
            yield from segments.copy_steps(result, target, recording, memory, environment)
