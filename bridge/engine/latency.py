"""What a client of an engine waits for: times of single calls from one or more threads, and their percentiles."""

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bridge.tensorrt.run.engine import Engine


@dataclass(frozen=True)
class Percentiles:
    """Microseconds. A percentile is the least sample that so many percent of the samples do not exceed."""

    min: float
    median: float
    mean: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Percentiles":
        """From at least one sample."""
        ordered = sorted(samples)
        p90, p95, p99 = (ordered[math.ceil(percent * len(ordered) / 100) - 1] for percent in (90, 95, 99))
        return cls(ordered[0], statistics.median(ordered), statistics.fmean(ordered), p90, p95, p99, ordered[-1])


@dataclass(frozen=True)
class Sample:
    """Microseconds of one call.

    gpu: from the start to the end of the run on the GPU. enqueue: what the CPU takes to launch it. end_to_end: from
    inputs in host memory to outputs in host memory.
    """

    gpu: float
    enqueue: float
    end_to_end: float


@dataclass(frozen=True)
class Measurement:
    """The samples of all calls, and the seconds that they took together."""

    samples: tuple[Sample, ...]
    seconds: float

    @property
    def throughput(self) -> float:
        """Calls per second."""
        return len(self.samples) / self.seconds

    def percentiles(self) -> dict[str, Percentiles]:
        """Those of every time of a Sample, by its name."""
        names = Sample.__dataclass_fields__
        return {name: Percentiles.of([getattr(sample, name) for sample in self.samples]) for name in names}


def measure(
    engine: "Engine", inputs: Sequence[Tensor], iterations: int, warm_up: int = 10, clients: int = 1
) -> Measurement:
    """Calls an engine on copies of CPU tensors, `iterations` times in all, from `clients` threads.

    Each client has its own stream and execution context, calls the engine `warm_up` times first, at least once, and
    waits for a result before its next call.

    EngineError, EngineInputError: the engine does not run on them.
    """
    return call_from(clients, lambda: _client(engine, inputs, max(warm_up, 1)), iterations)


def call_from(clients: int, connect: Callable[[], Callable[[], Sample]], iterations: int) -> Measurement:
    """Makes a client in each of so many threads, then lets them all call, until there are `iterations` samples.

    connect: called in the thread; its result makes one call. The first exception of a client ends them all.
    """
    tickets = iter(range(iterations))
    start = threading.Barrier(clients + 1)
    stopped = threading.Event()

    def work() -> list[Sample]:
        try:
            call, samples = connect(), []
            start.wait()
            while not stopped.is_set() and next(tickets, None) is not None:
                samples.append(call())
            return samples
        except BaseException:
            stopped.set()
            start.abort()
            raise

    with ThreadPoolExecutor(clients) as threads:
        futures = [threads.submit(work) for _ in range(clients)]
        try:
            start.wait()
            began = time.perf_counter()
            samples = [sample for future in futures for sample in future.result()]
            return Measurement(tuple(samples), time.perf_counter() - began)
        except threading.BrokenBarrierError:
            errors = [error for future in futures if (error := future.exception()) is not None]
            raise next(error for error in errors if not isinstance(error, threading.BrokenBarrierError)) from None
        finally:  # of an interruption, too
            stopped.set()
            start.abort()


def _client(engine: "Engine", inputs: Sequence[Tensor], warm_up: int) -> Callable[[], Sample]:
    """A client of this thread, on a stream of its own, that has warmed up."""
    with torch.cuda.device(engine.device):
        stream = torch.cuda.Stream()
        sources = [tensor.pin_memory() if tensor.numel() else tensor for tensor in inputs]
        arguments = [torch.empty(tensor.shape, dtype=tensor.dtype, device=engine.device) for tensor in inputs]
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    results: list[Tensor] = []

    def call() -> Sample:
        with torch.cuda.device(engine.device), torch.cuda.stream(stream):
            began = time.perf_counter()
            for argument, source in zip(arguments, sources, strict=True):
                argument.copy_(source, non_blocking=True)
            first.record()
            launched = time.perf_counter()
            outputs = engine(*arguments)
            enqueue = time.perf_counter() - launched
            last.record()
            results[:] = map(_to_host, outputs, results or outputs)
            stream.synchronize()
            seconds = time.perf_counter() - began
        return Sample(first.elapsed_time(last) * 1e3, enqueue * 1e6, seconds * 1e6)

    for _ in range(warm_up):
        call()
    return call


def _to_host(output: Tensor, before: Tensor) -> Tensor:
    """A copy in pinned memory: that of the call before, where the shape is the same."""
    fits = not before.is_cuda and before.shape == output.shape
    host = before if fits else torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
    return host.copy_(output, non_blocking=True)
