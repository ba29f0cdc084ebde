"""Times runs of engines on the current GPU, one against the other."""

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bridge.errors import EngineError

if TYPE_CHECKING:
    from bridge.tensorrt.context import Context
    from bridge.tensorrt.engine import Engine

_ROUNDS = 41
_WARM_UP = 5
_SHORTEST = 1000.0  # microseconds that are timed at a time, at least
_MOST_RUNS = 100


@dataclass(frozen=True)
class Timing:
    """Microseconds of one run: the median, and the distance between the quartiles."""

    median: float
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """Of at least two samples."""
        low, middle, high = statistics.quantiles(samples, n=4)
        return cls(middle, high - low)


def compare(engines: Sequence["Engine"], inputs: Sequence[Tensor]) -> list[Timing]:
    """The time of a run of each engine on the same inputs, alternated so that the GPU's clocks favour none.

    Several runs are captured into a CUDA graph, which leaves out what a call costs the CPU; where one of the engines
    cannot be captured, all are called one run after the other.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        contexts = [engine.new_context(for_capture=True, static_outputs=True) for engine in engines]
        runs = _runs(contexts, inputs)
        works = _captured(contexts, inputs, runs, stream) or [_repeated(c, inputs, runs) for c in contexts]
        samples: list[list[float]] = [[] for _ in engines]
        for number in range(_WARM_UP + _ROUNDS):
            order = range(len(works)) if number % 2 else reversed(range(len(works)))
            for place in order:
                taken = _time(works[place]) / runs
                if number >= _WARM_UP:
                    samples[place].append(taken)
    torch.cuda.current_stream().wait_stream(stream)
    return [Timing.of(taken) for taken in samples]


def noise(a: Timing, b: Timing) -> float:
    """The difference of two medians, in microseconds, that says nothing."""
    return max(0.02 * min(a.median, b.median), (a.spread + b.spread) / 2)


def _runs(contexts: Sequence["Context"], inputs: Sequence[Tensor]) -> int:
    """How many runs are timed together."""
    shortest = []
    for context in contexts:
        for _ in range(_WARM_UP):  # compiles and loads kernels, too
            context(*inputs)
        shortest.append(min(_time(_repeated(context, inputs, 1)) for _ in range(_WARM_UP)))
    return max(1, min(_MOST_RUNS, round(_SHORTEST / max(min(shortest), 1.0))))


def _repeated(context: "Context", inputs: Sequence[Tensor], runs: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(runs):
            context(*inputs)

    return work


def _captured(
    contexts: Sequence["Context"], inputs: Sequence[Tensor], runs: int, stream: torch.cuda.Stream
) -> list[Callable[[], None]] | None:
    """The replays of a CUDA graph of each, or None where one of them cannot be captured."""
    graphs = []
    with contextlib.suppress(EngineError):
        for context in contexts:
            context.check_capturable(stream.cuda_stream)
        for context in contexts:
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                for _ in range(runs):
                    context(*inputs)
            graphs.append(graph)
    return [graph.replay for graph in graphs] if len(graphs) == len(contexts) else None


def _time(work: Callable[[], None]) -> float:
    """Microseconds on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000
