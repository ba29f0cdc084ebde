"""What an engine gains over calls of the PyTorch op, and whether the op chooses the fastest of its kernels."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bridge.bench.workload import Workload
from bridge.core.op import OPS
from bridge.engine.timing import Timing, compare, time_call
from bridge.testing import outputs_of
from bridge.testing.plugin_call import OWN, PluginCall, dense, plugin_call, supposed_device

BEHIND = 1.05  # times the fastest tactic; more is shown
_NEAR = 1.3  # times the fastest: slower tactics are not measured again, in turns with the choice

Row = Mapping[str, Any]
Measure = Callable[[Callable[[list[Any]], Any]], dict[str, float]]


def measure(
    workload: Workload, args: list[Any], settings: dict[str, Any], errors: Mapping[str, Any], times: Measure
) -> dict[str, Any]:
    """The keys "engine" and "tactics" of a row, each where there is something to say.

    engine: times of the plugin that keeps what it makes of constants, by `times`. tactics: the number of the op's own
    choice, and microseconds by number, of the choice under -1. Either says under "missing" why there are none. wrong:
    tactics whose result is further from the PyTorch op's than the row's `errors` explain.
    """
    op = OPS[workload.op]
    if op.counted:  # the plugin is asked by shapes of results, which depend on values
        return {}
    args = [dense(value) for value in args]
    try:
        with plugin_call(op, args, settings, workload.constants()) as call:
            if not call.tactics and not workload.constants():
                return {}
            return _measure(call, workload, args, settings, errors, times)
    except Exception as error:  # of any kind: the op's own row must not be lost with it
        torch.cuda.synchronize()
        missing = {"missing": f"{type(error).__name__}: {error}"}
        return {"engine": missing} if workload.constants() else {"tactics": missing}


def _measure(
    call: PluginCall,
    workload: Workload,
    args: list[Any],
    settings: dict[str, Any],
    errors: Mapping[str, Any],
    times: Measure,
) -> dict[str, Any]:
    expected = outputs_of(OPS[workload.op].overload(*args, **settings))
    is_right = partial(_is_right, expected=expected, workload=workload, errors=errors)
    call.use(OWN)
    found: dict[str, Any] = {"engine": times(call)} if workload.constants() else {}
    if call.tactics:
        microseconds, wrong = _of_tactics(call, args, is_right)
        found["tactics"] = {"own": call.own, "us": microseconds}
    else:
        wrong = [] if is_right(call(args)) else [OWN]
    return found | ({"wrong": wrong, "right": False} if wrong else {})


def _of_tactics(
    call: PluginCall, args: list[Any], is_right: Callable[[Sequence[Tensor]], bool]
) -> tuple[dict[str, float], list[int]]:
    """Microseconds of each tactic by its number, and the tactics that are wrong.

    Those near the fastest are timed in turns: a GPU's clocks drift by more than what tells them apart.
    """
    alone, wrong = {}, []
    for tactic in call.tactics:
        call.use(tactic)
        if not is_right(call(args)):
            wrong.append(tactic)
        alone[tactic] = time_call(call, [args])
    near = [tactic for tactic in alone if tactic == OWN or alone[tactic].us <= _NEAR * _fastest(alone)]
    found = alone | dict(zip(near, _in_turns(call, args, near), strict=True))
    return {str(tactic): timing.us for tactic, timing in found.items()}, wrong


def _fastest(timings: Mapping[int, Timing]) -> float:
    return min(timing.us for timing in timings.values())


def _in_turns(call: PluginCall, args: list[Any], tactics: Sequence[int]) -> list[Timing]:
    """Each is set before its calls are made for the last time, into a CUDA graph."""

    def run(tactic: int) -> None:
        call.use(tactic)
        call(args)

    return compare([], (), [partial(run, tactic) for tactic in tactics])


def _is_right(
    results: Sequence[Tensor], expected: Sequence[Tensor], workload: Workload, errors: Mapping[str, Any]
) -> bool:
    """Whether two results are as near as two are that are each within what a row allows of the exact one."""
    rounding = max(torch.finfo(result.dtype).eps for result in results)
    allowed = errors["error"] + 2 * errors["pytorch_error"] + rounding
    return workload.difference(expected, results) <= allowed


def choice(workload: Workload, capability: int, multiprocessors: int) -> int | None:
    """The tactic that an op takes by itself on such a GPU, which need not be there; None where there is but one way."""
    op, (args, settings) = OPS[workload.op], workload.arguments(torch.device("meta"))
    given = [dense(value) for value in args], settings, workload.constants()
    with supposed_device(op, capability, multiprocessors), plugin_call(op, *given) as call:
        return call.own


def behind(row: Row) -> float | None:
    """The time of the op's own choice by that of its fastest tactic; None where tactics were not measured."""
    if "us" not in row.get("tactics", {}):
        return None
    own, others = _own_and_others(row)
    return own / min(others.values())


def fastest(row: Row) -> tuple[int, float]:
    """The number of a row's fastest tactic, and its microseconds."""
    _, others = _own_and_others(row)
    return min(others.items(), key=lambda item: item[1])


def own_us(row: Row) -> float:
    """The microseconds of the op's own choice."""
    return _own_and_others(row)[0]


def _own_and_others(row: Row) -> tuple[float, dict[int, float]]:
    microseconds = {int(number): us for number, us in row["tactics"]["us"].items()}
    return microseconds.pop(OWN), microseconds
