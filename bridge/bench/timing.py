"""GPU time of a call, from replays of a CUDA graph that holds many of it."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_REPLAY_US = 2000.0  # a replay lasts about as long, so that its start does not count
_MOST_LAUNCHES = 400
_REPLAYS = 15


@dataclass(frozen=True)
class Timing:
    """Microseconds a launch: median, and the 10th and 90th percentile of the replays."""

    us: float
    low: float
    high: float


def time_call(call: Callable[[Any], Any], arguments: Sequence[Any]) -> Timing:
    """Of call(argument), where the launches take the arguments in turn; on a GPU.

    One argument gives the time with a warm cache; as many as exceed it the time with a cold one.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for argument in [*arguments[:2]] * 2:
            call(argument)
        stream.synchronize()
        estimate = max(_elapsed_us(lambda: call(arguments[0]), stream), 1.0)
        rounds = max(1, min(_MOST_LAUNCHES, round(_REPLAY_US / estimate)) // len(arguments))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for argument in [*arguments] * rounds:
                call(argument)
        graph.replay()
        launches = rounds * len(arguments)
        times = sorted(_elapsed_us(graph.replay, stream) / launches for _ in range(_REPLAYS))
    return Timing(statistics.median(times), times[len(times) // 10], times[-1 - len(times) // 10])


def _elapsed_us(work: Callable[[], Any], stream: torch.cuda.Stream) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) * 1e3
