"""GPU times of calls and of engines, from replays of CUDA graphs that hold many of them."""

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridge.errors import EngineError

if TYPE_CHECKING:
    from bridge.tensorrt.run.context import Context
    from bridge.tensorrt.run.engine import Engine

_REPLAY_US = 2000.0  # a replay lasts about as long, so that its start does not count
_LOOP_US = 20000.0  # the same of calls one after the other
_MOST_LAUNCHES = 400
_REPLAYS = 15
# Of engines that are compared, whose graphs have many nodes a run.
_ROUND_US = 1000.0
_MOST_RUNS = 100
_ROUNDS = 41
_WARM_UP = 5


@dataclass(frozen=True)
class Timing:
    """Microseconds a call: the median, the 10th and the 90th percentile, and the distance between the quartiles."""

    us: float
    low: float
    high: float
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """Of at least two samples."""
        ordered = sorted(samples)
        first, median, third = statistics.quantiles(ordered, n=4)
        return cls(median, ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10], third - first)


def noise(a: Timing, b: Timing) -> float:
    """The difference of two medians, in microseconds, that says nothing."""
    return max(0.02 * min(a.us, b.us), (a.spread + b.spread) / 2)


def time_call(call: Callable[[Any], Any], arguments: Sequence[Any]) -> Timing:
    """Of call(argument), where the launches take the arguments in turn; on a GPU.

    One argument gives the time with a warm cache; as many as exceed it the time with a cold one.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for argument in [*arguments[:2]] * 2:
            call(argument)
        stream.synchronize()
        estimate = max(_elapsed_us(lambda: call(arguments[0])), 1.0)
        rounds = max(1, min(_MOST_LAUNCHES, round(_REPLAY_US / estimate)) // len(arguments))
        in_turn = [*arguments] * rounds
        replay = _captured(lambda: _launch(call, in_turn), stream)
        replay()
        return Timing.of([_elapsed_us(replay) / len(in_turn) for _ in range(_REPLAYS)])


def _launch(call: Callable[[Any], Any], arguments: Sequence[Any]) -> None:
    for argument in arguments:
        call(argument)  # its result goes, so that the next one takes its memory


def time_loop(call: Callable[[], Any]) -> Timing:
    """Of call() as its caller has it, with the CPU's part where the GPU waits for that; no CUDA graph is made."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            call()
        stream.synchronize()
        estimate = max(_elapsed_us(call), 1.0)
        count = max(1, min(_MOST_LAUNCHES, round(_LOOP_US / estimate)))
        return Timing.of(
            [_elapsed_us(lambda: _launch(lambda _: call(), [None] * count)) / count for _ in range(_REPLAYS)]
        )


def compare(engines: Sequence["Engine"], inputs: Sequence[Tensor]) -> list[Timing]:
    """The time of a run of each engine on the same inputs, in turns so that the GPU's clocks favour none.

    Where one of the engines cannot be captured into a CUDA graph, all are called one run after the other.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        contexts = [engine.new_context(for_capture=True, static_outputs=True) for engine in engines]
        runs = max(_runs(context, inputs) for context in contexts)
        repeated = [_repeated(context, inputs, runs) for context in contexts]
        samples = _in_turns(_captured_engines(contexts, repeated, stream) or repeated)
    torch.cuda.current_stream().wait_stream(stream)
    return [Timing.of([us / runs for us in taken]) for taken in samples]


def _in_turns(works: Sequence[Callable[[], Any]]) -> list[list[float]]:
    """Microseconds of each, round by round; every round begins with the next one."""
    samples: list[list[float]] = [[] for _ in works]
    for number in range(_WARM_UP + _ROUNDS):
        for step in range(len(works)):
            place = (number + step) % len(works)
            taken = _elapsed_us(works[place])
            if number >= _WARM_UP:
                samples[place].append(taken)
    return samples


def _runs(context: "Context", inputs: Sequence[Tensor]) -> int:
    """How many runs are timed together."""
    for _ in range(_WARM_UP):  # compiles and loads kernels, too
        context(*inputs)
    shortest = min(_elapsed_us(lambda: context(*inputs)) for _ in range(_WARM_UP))
    return max(1, min(_MOST_RUNS, round(_ROUND_US / max(shortest, 1.0))))


def _repeated(context: "Context", inputs: Sequence[Tensor], runs: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(runs):
            context(*inputs)

    return work


def _captured_engines(
    contexts: Sequence["Context"], works: Sequence[Callable[[], None]], stream: torch.cuda.Stream
) -> list[Callable[[], None]] | None:
    """The replays of a CUDA graph of each, or None where one of them cannot be captured."""
    with contextlib.suppress(EngineError):
        for context in contexts:
            context.check_capturable(stream.cuda_stream)
        return [_captured(work, stream) for work in works]
    return None


def _captured(work: Callable[[], Any], stream: torch.cuda.Stream) -> Callable[[], None]:
    """The replay of a CUDA graph of `work`."""
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph.replay


def _elapsed_us(work: Callable[[], Any]) -> float:
    """Microseconds on the GPU, on the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3
