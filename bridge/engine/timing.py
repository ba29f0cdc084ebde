"""GPU times of calls and of engines, from replays of CUDA graphs that hold many of them."""

import contextlib
import functools
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridge.errors import EngineError

if TYPE_CHECKING:
    from bridge.tensorrt.run.context import Context
    from bridge.tensorrt.run.engine import Engine

_REPLAY_US = 2000.0  # a replay takes about this long, so that its launch does not count
_LOOP_US = 20000.0  # the same for calls in a loop
_MOST_LAUNCHES = 400
_REPLAYS = 15
_LONG_US = 500.0  # a call that takes longer than its launch does
_TRIED = 20  # shorter calls in a first CUDA graph, which tells how many a replay should hold
_MOST_QUEUED = 32  # calls, whose launches a stream's queue holds
_CYCLES_PER_US = 2000  # of a GPU's clock, at most
# For comparisons of engines, whose CUDA graphs have many nodes per run.
_ROUND_US = 1000.0
_MOST_RUNS = 100
_ROUNDS = 41
_WARM_UP = 5


@dataclass(frozen=True)
class Timing:
    """Microseconds per call: the median, the 10th and 90th percentile, and the interquartile range."""

    us: float
    low: float
    high: float
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """From at least two samples."""
        ordered = sorted(samples)
        first, median, third = statistics.quantiles(ordered, n=4)
        return cls(median, ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10], third - first)


def noise(a: Timing, b: Timing) -> float:
    """The largest difference of two medians, in microseconds, that is not significant."""
    return max(0.02 * min(a.us, b.us), (a.spread + b.spread) / 2)


def time_call(call: Callable[[Any], Any], arguments: Sequence[Any]) -> Timing:
    """Times call(argument) on a GPU; launches cycle through the arguments.

    One argument measures a warm cache; arguments that together exceed the cache measure a cold one.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for argument in [*arguments[:2]] * 2:
            call(argument)
        stream.synchronize()
        estimate = _estimate(call, arguments[0], stream)
        rounds = max(1, min(_MOST_LAUNCHES, round(_REPLAY_US / estimate)) // len(arguments))
        cycled = [*arguments] * rounds
        replay = _capture(lambda: _launch(call, cycled), stream)
        replay()
        return Timing.of([_elapsed_us(replay) / len(cycled) for _ in range(_REPLAYS)])


def _estimate(call: Callable[[Any], Any], argument: Any, stream: torch.cuda.Stream) -> float:
    """Microseconds of a call on the GPU, 1 or more."""
    launched = _elapsed_us(lambda: call(argument))
    if launched > _LONG_US:
        return launched
    replay = _capture(lambda: _launch(call, [argument] * _TRIED), stream)
    replay()
    return max(_elapsed_us(replay) / _TRIED, 1.0)


def _launch(call: Callable[[Any], Any], arguments: Sequence[Any]) -> None:
    for argument in arguments:
        call(argument)  # the result is freed, so that the next call reuses its memory


def time_loop(call: Callable[[], Any]) -> Timing:
    """Times call() in a loop without a CUDA graph, so that CPU overhead counts where the GPU waits for it."""
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


def time_queued(call: Callable[[Any], Any], arguments: Sequence[Any]) -> Timing:
    """As time_call, for calls that launch on the default stream whatever stream is current: no CUDA graph holds these.

    The GPU is kept busy while launches are queued behind that, so that CPU time counts where launches wait for it.
    """
    with torch.cuda.stream(torch.cuda.default_stream()):
        for argument in [*arguments[:2]] * 2:
            call(argument)
        torch.cuda.synchronize()
        start = time.perf_counter()
        call(arguments[0])
        issue_us = (time.perf_counter() - start) * 1e6
        estimate = max(_elapsed_us(lambda: call(arguments[0])), 1.0)
        rounds = max(1, min(_MOST_QUEUED, round(_REPLAY_US / estimate)) // len(arguments))
        cycled = [*arguments] * rounds
        head_start = int(1.5 * issue_us * len(cycled)) * _CYCLES_PER_US

        def elapsed() -> float:
            torch.cuda._sleep(head_start)
            return _elapsed_us(lambda: _launch(call, cycled))

        elapsed()
        return Timing.of([elapsed() / len(cycled) for _ in range(_REPLAYS)])


def replayed(call: Callable[[], Any], before: Callable[[], Any]) -> Any:
    """What a CUDA graph of call() computes, whose memory it is in. before: runs once more before the replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    results: list[Any] = []
    with torch.cuda.stream(stream):
        call()
        replay = _capture(lambda: results.append(call()), stream)
        before()
        torch.cuda.synchronize()  # with what a capture does not hold
        replay()
        stream.synchronize()
    return results[0]


def compare(
    engines: Sequence["Engine"], inputs: Sequence[Tensor], calls: Sequence[Callable[[], Any]] = ()
) -> list[Timing]:
    """Times each engine on the same inputs, interleaved so that changing GPU clocks favour none.

    calls: to time beside the engines, after which they come. They can be captured into CUDA graphs.
    If one of the engines cannot be captured into a CUDA graph, all are timed without one.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        contexts = [engine.new_context(for_capture=True, static_outputs=True) for engine in engines]
        works: list[Callable[[], Any]] = [*(functools.partial(context, *inputs) for context in contexts), *calls]
        runs = max(map(_runs_per_round, works))
        repeated = [_repeat(work, runs) for work in works]
        samples = _interleaved_samples(_capture_all(contexts, repeated, stream) or repeated)
    torch.cuda.current_stream().wait_stream(stream)
    return [Timing.of([us / runs for us in sample]) for sample in samples]


def _interleaved_samples(works: Sequence[Callable[[], Any]]) -> list[list[float]]:
    """Microseconds of each work, one sample per round; the starting work rotates."""
    samples: list[list[float]] = [[] for _ in works]
    for number in range(_WARM_UP + _ROUNDS):
        for step in range(len(works)):
            index = (number + step) % len(works)
            sample = _elapsed_us(works[index])
            if number >= _WARM_UP:
                samples[index].append(sample)
    return samples


def _runs_per_round(work: Callable[[], Any]) -> int:
    """How many runs are timed together."""
    for _ in range(_WARM_UP):  # also compiles and loads kernels
        work()
    shortest = min(_elapsed_us(work) for _ in range(_WARM_UP))
    return max(1, min(_MOST_RUNS, round(_ROUND_US / max(shortest, 1.0))))


def _repeat(work: Callable[[], Any], runs: int) -> Callable[[], None]:
    def several() -> None:
        for _ in range(runs):
            work()

    return several


def _capture_all(
    contexts: Sequence["Context"], works: Sequence[Callable[[], None]], stream: torch.cuda.Stream
) -> list[Callable[[], None]] | None:
    """The replays of a CUDA graph of each, or None where one of them cannot be captured."""
    with contextlib.suppress(EngineError):
        for context in contexts:
            context.check_capturable(stream.cuda_stream)
        return [_capture(work, stream) for work in works]
    return None


def _capture(work: Callable[[], Any], stream: torch.cuda.Stream) -> Callable[[], None]:
    """The replay of a CUDA graph of `work`."""
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
    except Exception:
        _end_capture_of_generators()
        raise
    return graph.replay


def _end_capture_of_generators() -> None:
    """After a capture that failed: torch takes its random generators to be captured until another one ends well."""
    with warnings.catch_warnings(), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream()):
        warnings.simplefilter("ignore")  # torch warns of a graph with nothing in it


def _elapsed_us(work: Callable[[], Any]) -> float:
    """Microseconds on the GPU, on the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3
