"""One run of the bench on the current GPU: ceilings, then the errors, times and peers of each workload."""

import datetime
import itertools
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

import bridge
from bridge.bench import tactics
from bridge.bench.ceilings import binding, floors, l2_bytes, measure_ceilings, refreshed, with_reached
from bridge.bench.peer import Call, Missing, Peer
from bridge.bench.workload import Workload
from bridge.core.op import OPS
from bridge.engine.timing import Timing, replayed, time_call, time_loop, time_queued
from bridge.testing import cast, outputs_of
from bridge.testing.arguments import with_dtype

SCHEMA = 1
_COLD_FACTOR = 3  # times the L2 cache: bytes of the argument sets that launches cycle through
_MOST_SETS = 64
_MOST_DIFFERENCE = 0.5  # as a fraction of the largest value; a peer beyond it computes something else


def run(
    workloads: Iterable[Workload],
    peers: Sequence[Peer],
    progress: Callable[[dict[str, Any]], None],
    beside_growth: bool = True,
) -> dict[str, Any]:
    """The run as JSON values; `progress` gets the result so far after each workload.

    beside_growth: whether to measure peers of workloads of growing size too. RuntimeError: there is no GPU.
    """
    gpu()
    ceilings = measure_ceilings()
    result: dict[str, Any] = {"schema": SCHEMA, **environment(), "ceilings": ceilings, "rows": []}
    for workload in workloads:
        row_peers = peers if beside_growth or workload.group != "growth" else ()
        result["rows"].append(measure_workload(workload, row_peers, refreshed(workload, ceilings)))
        torch.cuda.empty_cache()
        progress(result)
    return with_reached(result)


def gpu() -> str:
    """The name of the current GPU. RuntimeError: there is none."""
    if (name := gpu_here()) is None:
        raise RuntimeError("bridge bench measures on a CUDA GPU, and there is none; --list and --against need none")
    return name


def gpu_here() -> str | None:
    """The name of the current GPU, or None."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def environment() -> dict[str, Any]:
    """GPU, driver, versions and date."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0].strip()
    return {
        "gpu": properties.name,
        "driver": driver or "unknown",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "versions": {"bridge": bridge.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def measure_workload(workload: Workload, peers: Sequence[Peer], ceilings: dict[str, float]) -> dict[str, Any]:
    """The row of a workload: times in microseconds, errors, peers."""
    device, op = torch.device("cuda"), OPS[workload.op]
    torch.manual_seed(0)
    args, settings = workload.arguments(device)
    errors = compare(workload, args, settings)
    torch.cuda.empty_cache()

    def call(arguments: list[Any]) -> Any:
        return op.overload(*arguments, **settings)

    def times(run: Callable[[list[Any]], Any]) -> dict[str, float]:
        return {**_times(_time(workload.captured, run, [args])), "cold_us": _time_cold(run, workload, args).us}

    traffic = workload.traffic(args, settings)
    bounds = floors(workload, ceilings, traffic, workload.gathered(args, settings))
    row: dict[str, Any] = {
        "op": workload.op,
        "workload": workload.name,
        "dtype": workload.dtype,
        **times(call),
        "bytes": traffic,
        "flops": workload.flops(),
        "bytes_per_us": ceilings["bytes_per_us"],
        "floor": binding(bounds),
        "floor_us": max(bounds.values()),
        **errors,
        **tactics.measure(workload, args, settings, errors, times),
        "peers": {},
    }
    for peer in peers:
        if peer.op == workload.op and not (peer.compiles and workload.variation):
            row["peers"][peer.name] = _measure_peer(peer, workload, args, settings)
    return row


def compare(workload: Workload, args: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Largest error of the op, and of PyTorch's operations in the same dtype, as fractions of the largest output.

    The exact result is the reference in float32 (float64 for float32). right: the op's error is at most twice
    PyTorch's, plus one rounding of the largest output.
    """
    op = OPS[workload.op]
    result = op.overload(*args, **settings)
    if (own_errors := workload.errors(args, settings, result)) is not None:
        return own_errors
    results = outputs_of(result)
    wider = torch.float64 if workload.dtype == "float32" else torch.float32
    largest, pytorch_largest, right = 0.0, 0.0, True
    for index in _images(workload, args):
        part = _image(args, workload.batched(), index)
        exact = outputs_of(op.call_reference(*cast(part, wider), **with_dtype(op, settings, wider)))
        pytorch = outputs_of(op.call_reference(*part, **settings))
        for result, expected, by_pytorch in zip(results, exact, pytorch, strict=True):
            scale = float(expected.abs().max())
            candidates = (_image([result], (0,), index)[0], by_pytorch)
            error, pytorch_error = (float((x.to(wider) - expected).abs().max()) / scale for x in candidates)
            right = right and error <= 2 * pytorch_error + torch.finfo(result.dtype).eps
            largest, pytorch_largest = max(largest, error), max(pytorch_largest, pytorch_error)
    return {"error": largest, "pytorch_error": pytorch_largest, "right": right}


def _images(workload: Workload, args: list[Any]) -> list[int | None]:
    """Image indices: the reference takes much memory, so a batch is compared image by image. [None]: no batch."""
    batched = workload.batched()
    return list(range(args[batched[0]].shape[0])) if batched and args[batched[0]].shape[0] > 1 else [None]


def _image(args: list[Any], batched: Sequence[int], index: int | None) -> list[Any]:
    """The arguments for one image; arguments that are not `batched` are shared. index None: all images."""
    if index is None:
        return list(args)
    return [t[index : index + 1] if position in batched else t for position, t in enumerate(args)]


def _time_cold(call: Callable[[list[Any]], Any], workload: Workload, args: list[Any]) -> Timing:
    count = min(_MOST_SETS, max(2, -(-_COLD_FACTOR * l2_bytes() // workload.bytes())))
    sets = [args] + [_copied(args) for _ in range(count - 1)]
    return _time(workload.captured, call, sets)


def _time(captured: bool, call: Callable[[list[Any]], Any], sets: Sequence[list[Any]]) -> Timing:
    """The time of calls that cycle through argument sets; CPU time counts where a call cannot be captured."""
    if captured:
        return time_call(call, sets)
    cycled = itertools.cycle(sets)
    return time_loop(lambda: call(next(cycled)))


def _measure_peer(peer: Peer, workload: Workload, args: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The times of a peer and its difference from the op; or the reason that it is missing."""
    try:
        call = peer.prepare(workload, settings)
        differs = {} if peer.bound else {"difference": _difference(call, workload, args, settings)}
        return {**_times(_time_peer(peer, workload, call, args)), **differs, "bound": peer.bound}
    except Missing as reason:
        return {"missing": str(reason)}
    except Exception as error:  # of any kind: a failure of another package must not end the run
        torch.cuda.synchronize()
        return {"missing": f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"}


def _time_peer(peer: Peer, workload: Workload, call: Call, args: list[Any]) -> Timing:
    """Missing: a CUDA graph of the peer lacks some of its kernels, as its result shows."""
    if peer.default_stream:
        return time_queued(call, [args])
    captured = workload.captured and not peer.waits
    if captured and not peer.bound and not (largest := _difference_in_graph(call, workload, args)) <= _MOST_DIFFERENCE:
        raise Missing(f"its result in a CUDA graph differs by {largest:.2g}: the graph lacks some of its kernels")
    return _time(captured, call, [args])


def _difference_in_graph(call: Call, workload: Workload, args: list[Any]) -> float:
    """Of what a CUDA graph of the call computes from what the call does, as a fraction of the latter."""
    given = _copied(args)
    expected = [t.clone() for t in outputs_of(call(given))]

    def restore() -> None:
        for target, source in zip(given, args, strict=True):
            if isinstance(target, Tensor):
                target.copy_(source)

    restore()
    return workload.difference(expected, outputs_of(replayed(lambda: call(given), restore)))


def _copied(args: list[Any]) -> list[Any]:
    return [t.clone() if isinstance(t, Tensor) else t for t in args]


def _difference(
    call: Callable[[list[Any]], Any], workload: Workload, args: list[Any], settings: dict[str, Any]
) -> float:
    """Largest difference of a peer's result from the op's, as a fraction of the latter. Some overwrite their arguments.

    Missing: it computes something else.
    """
    results = outputs_of(OPS[workload.op].overload(*args, **settings))
    peer_results = outputs_of(call(_copied(args)))
    if workload.captured and [t.numel() for t in peer_results] != [t.numel() for t in results]:
        raise Missing(
            f"its results have shapes {[list(t.shape) for t in peer_results]}, not {[list(t.shape) for t in results]}"
        )
    largest = workload.difference(results, peer_results)  # NaN where one of them is
    if not largest <= _MOST_DIFFERENCE:
        raise Missing(f"its result differs by {largest:.2g} of the largest value: it computes something else")
    return largest


def _times(timing: Timing) -> dict[str, float]:
    return {"us": timing.us, "low_us": timing.low, "high_us": timing.high}
