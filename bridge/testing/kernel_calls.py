"""Which kernels calls launch, as PyTorch's profiler sees them, and few calls that launch each kernel."""

import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "bridge call "
_AT_ONCE = 64  # calls in one profile, which holds every operation of PyTorch's, too
_COPIES = ("Memcpy", "Memset")


def launched(calls: Iterable[tuple[int, Callable[[], object]]]) -> dict[int, list[str]]:
    """The names of the kernels of each call, which is a number and what makes the call.

    A call must wait for its results: the kernels of a call are those that began between its begin and the next one's.
    """
    found: dict[int, list[str]] = {}
    rest = iter(calls)
    while some := list(islice(rest, _AT_ONCE)):
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiled:
            for number, call in some:
                with record_function(f"{_MARK}{number}"):
                    call()
        found.update(_kernels(profiled.events() or []))
    return found


def _kernels(events: Collection[FunctionEvent]) -> dict[int, list[str]]:
    marks = sorted(
        (event.time_range.start, int(event.name.removeprefix(_MARK)))
        for event in events
        if event.name.startswith(_MARK) and event.device_type.name == "CPU"
    )
    names: dict[int, set[str]] = {number: set() for _, number in marks}
    for event in events:
        if event.device_type.name == "CUDA" and not event.name.startswith((_MARK, *_COPIES)):
            after = bisect.bisect_right(marks, event.time_range.start, key=lambda mark: mark[0])
            names[marks[max(after - 1, 0)][1]].add(event.name)
    return {number: sorted(kernels) for number, kernels in names.items()}


def few(launched: Mapping[int, Collection[str]]) -> list[int]:
    """Few calls, by their numbers, which together launch all that the calls launch: the rarest kernels choose first."""
    callers: dict[str, list[int]] = defaultdict(list)
    for number, names in launched.items():
        for name in names:
            callers[name].append(number)
    chosen: set[int] = set()
    missing = dict(sorted(callers.items(), key=lambda item: (len(item[1]), item[0])))
    while missing:
        numbers = missing[next(iter(missing))]
        best = max(numbers, key=lambda number: (sum(name in missing for name in launched[number]), -number))
        chosen.add(best)
        for name in launched[best]:
            missing.pop(name, None)
    return sorted(chosen)
