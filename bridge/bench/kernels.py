"""The kernels of a call and their times, from CUPTI's records by torch.profiler."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bridge.core.op import OPS

_WARM_UP = 5
_BRIDGE_KERNEL = re.compile(r"(?:void )?bridge::(\w+)|_ZN6bridge\d+(\w+)")  # demangled and mangled


@dataclass(frozen=True)
class Kernel:
    """A kernel or copy of a call. op: its bridge op, or None. us: that all its launches add to one call."""

    name: str
    op: str | None
    launches: float
    us: float


def trace(call: Callable[[], Any], runs: int = 20) -> list[Kernel]:
    """The kernels of one call, mean of `runs`, the slowest first. Empty where CUPTI records none."""
    for _ in range(_WARM_UP):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(runs):
            call()
        torch.cuda.synchronize()
    events = profiler.events() or []
    spans = ((e.name, e.time_range.start, e.time_range.end) for e in events if e.device_type.name == "CUDA")
    return group(added(spans), runs)


def added(spans: Iterable[tuple[str, float, float]]) -> Iterator[tuple[str, float]]:
    """What each launch adds to the time, from the name, the start and the end of every one, in any order.

    A kernel that is launched early (programmatic dependent launch) runs beside the one before it, and mostly waits
    for it: it counts from that one's end.
    """
    latest = -math.inf
    for name, start, end in sorted(spans, key=lambda span: span[1:]):
        yield name, max(0.0, end - max(start, latest))
        latest = max(latest, end)


def group(records: Iterable[tuple[str, float]], runs: int) -> list[Kernel]:
    """One kernel per name, from the name and the microseconds of every launch in `runs` calls."""
    launches: dict[str, list[float]] = {}
    for name, us in records:
        launches.setdefault(name, []).append(us)
    merged = [Kernel(name, op_of(name), len(times) / runs, sum(times) / runs) for name, times in launches.items()]
    return sorted(merged, key=lambda kernel: -kernel.us)


def op_of(name: str) -> str | None:
    """The op of a bridge kernel, from its name; None for other kernels."""
    match = _BRIDGE_KERNEL.match(name)
    function = (match[1] or match[2]) if match else ""
    candidates = [op for op in OPS if f"{function}_".startswith(f"{op}_")]
    return max(candidates, key=len, default=None)
