"""Which kernels a call runs on the GPU and how long each takes: CUPTI's records, which torch.profiler collects."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bridge.core.op import OPS

_WARM_UP = 5
_OURS = re.compile(r"(?:void )?bridge::(\w+)|_ZN6bridge\d+(\w+)")  # demangled, and as the compiler spells it


@dataclass(frozen=True)
class Kernel:
    """A kernel, or a copy, of a call. op: the bridge op that it belongs to, or None. us: of all its launches."""

    name: str
    op: str | None
    launches: float
    us: float


def trace(call: Callable[[], Any], runs: int = 20) -> list[Kernel]:
    """The kernels of one call, by the mean of `runs`; those that take longest first. Empty where CUPTI records none."""
    for _ in range(_WARM_UP):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as found:
        for _ in range(runs):
            call()
        torch.cuda.synchronize()
    events = found.events() or []
    return group(((e.name, e.time_range.elapsed_us()) for e in events if e.device_type.name == "CUDA"), runs)


def group(records: Iterable[tuple[str, float]], runs: int) -> list[Kernel]:
    """One kernel a name, from the name and the microseconds of every launch in `runs` calls."""
    launches: dict[str, list[float]] = {}
    for name, us in records:
        launches.setdefault(name, []).append(us)
    found = [Kernel(name, op_of(name), len(times) / runs, sum(times) / runs) for name, times in launches.items()]
    return sorted(found, key=lambda kernel: -kernel.us)


def op_of(name: str) -> str | None:
    """The op that a kernel of bridge's belongs to, by its name; None for others' kernels."""
    match = _OURS.match(name)
    function = (match[1] or match[2]) if match else ""
    fitting = [op for op in OPS if f"{function}_".startswith(f"{op}_")]
    return max(fitting, key=len, default=None)
