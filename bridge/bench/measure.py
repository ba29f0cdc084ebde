"""One run of the bench on the current GPU: ceilings, then each workload, its errors first, beside its peers."""

import datetime
import itertools
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

import bridge
from bridge.bench.ceilings import binding, floors, l2_bytes, measure_ceilings, refreshed
from bridge.bench.peer import Missing, Peer
from bridge.bench.workload import Workload
from bridge.core.op import OPS
from bridge.engine.timing import Timing, time_call, time_loop
from bridge.testing import cast, outputs_of

SCHEMA = 1
_COLD = 3  # times the L2 cache, for the arguments that launches take in turn
_MOST_SETS = 64
_ANOTHER = 0.5  # of the largest value: a peer that differs by more computes something else


def run(
    workloads: Iterable[Workload],
    peers: Sequence[Peer],
    progress: Callable[[dict[str, Any]], None],
    beside_growth: bool = True,
) -> dict[str, Any]:
    """Everything that was measured, as JSON values; `progress` gets what there is so far after each workload.

    beside_growth: whether series of growing sizes have peers, too. RuntimeError: there is no GPU.
    """
    gpu()
    ceilings = measure_ceilings()
    result: dict[str, Any] = {"schema": SCHEMA, **environment(), "ceilings": ceilings, "rows": []}
    for workload in workloads:
        others = peers if beside_growth or workload.group != "growth" else ()
        result["rows"].append(measure_workload(workload, others, refreshed(workload, ceilings)))
        torch.cuda.empty_cache()
        progress(result)
    return result


def gpu() -> str:
    """Its name. RuntimeError: there is none."""
    if not torch.cuda.is_available():
        raise RuntimeError("bridge bench measures on a CUDA GPU, and there is none; --list and --against need none")
    return torch.cuda.get_device_name()


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
    """A row: times in microseconds, errors, peers."""
    device, op = torch.device("cuda"), OPS[workload.op]
    torch.manual_seed(0)
    args, settings = workload.arguments(device)
    errors = compare(workload, args, settings)
    torch.cuda.empty_cache()

    def ours(given: list[Any]) -> Any:
        return op.overload(*given, **settings)

    warm = _time(workload, ours, [args])
    traffic = workload.traffic(args, settings)
    bounds = floors(workload, ceilings, traffic)
    row: dict[str, Any] = {
        "op": workload.op,
        "workload": workload.name,
        "dtype": workload.dtype,
        **_times(warm),
        "cold_us": _cold(ours, workload, args).us,
        "bytes": traffic,
        "flops": workload.flops(),
        "bytes_per_us": ceilings["bytes_per_us"],
        "floor": binding(bounds),
        "floor_us": max(bounds.values()),
        **errors,
        "peers": {},
    }
    for peer in peers:
        if peer.op == workload.op:
            row["peers"][peer.name] = _peer(peer, workload, args, settings)
    return row


def compare(workload: Workload, args: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Largest error of ours, and of PyTorch's operations in the same dtype, as fractions of the largest output.

    The exact result is the reference in float32 (float64 for float32). right: ours is at most twice theirs, plus a
    rounding of the largest output.
    """
    op = OPS[workload.op]
    result = op.overload(*args, **settings)
    if (known := workload.errors(args, settings, result)) is not None:
        return known
    ours = outputs_of(result)
    wider = torch.float64 if workload.dtype == "float32" else torch.float32
    worst, theirs, right = 0.0, 0.0, True
    for index in _images(workload, args):
        part = _image(args, workload.batched(), index)
        exact = outputs_of(op.run(*cast(part, wider), **settings))
        plain = outputs_of(op.run(*part, **settings))
        for result, wanted, peer in zip(ours, exact, plain, strict=True):
            scale = float(wanted.abs().max())
            mine, other = (
                float((x.to(wider) - wanted).abs().max()) / scale for x in (_image([result], (0,), index)[0], peer)
            )
            right = right and mine <= 2 * other + torch.finfo(result.dtype).eps
            worst, theirs = max(worst, mine), max(theirs, other)
    return {"error": worst, "pytorch_error": theirs, "right": right}


def _images(workload: Workload, args: list[Any]) -> list[int | None]:
    """Images are compared one by one, for the reference takes much memory; what has no batch at once."""
    places = workload.batched()
    return list(range(args[places[0]].shape[0])) if places and args[places[0]].shape[0] > 1 else [None]


def _image(args: list[Any], batched: Sequence[int], index: int | None) -> list[Any]:
    """The arguments of one image; those not `batched` are those of all. None: all images."""
    if index is None:
        return list(args)
    return [t[index : index + 1] if place in batched else t for place, t in enumerate(args)]


def _cold(call: Callable[[list[Any]], Any], workload: Workload, args: list[Any]) -> Timing:
    count = min(_MOST_SETS, max(2, -(-_COLD * l2_bytes() // workload.bytes())))
    sets = [args] + [[t.clone() if isinstance(t, Tensor) else t for t in args] for _ in range(count - 1)]
    return _time(workload, call, sets)


def _time(workload: Workload, call: Callable[[list[Any]], Any], sets: Sequence[list[Any]]) -> Timing:
    """Of calls that take the sets of arguments in turn; where no CUDA graph can hold one, with the CPU's part."""
    if workload.captured:
        return time_call(call, sets)
    turns = itertools.cycle(sets)
    return time_loop(lambda: call(next(turns)))


def _peer(peer: Peer, workload: Workload, args: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Its times, and how far its result is from ours; or why there are none."""
    try:
        call = peer.prepare(workload, settings)
        differs = {} if peer.bound else {"difference": _difference(call, workload, args, settings)}
        return {**_times(_time(workload, call, [args])), **differs, "bound": peer.bound}
    except Missing as reason:
        return {"missing": str(reason)}
    except Exception as error:  # of any kind: another project's failure must not end the run
        torch.cuda.synchronize()
        return {"missing": f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"}


def _difference(
    call: Callable[[list[Any]], Any], workload: Workload, args: list[Any], settings: dict[str, Any]
) -> float:
    """Largest difference between a peer's result and ours, as a fraction of ours; some write over their arguments.

    Missing: it computes something else.
    """
    ours = outputs_of(OPS[workload.op].overload(*args, **settings))
    theirs = outputs_of(call([t.clone() if isinstance(t, Tensor) else t for t in args]))
    if workload.captured and [t.numel() for t in theirs] != [t.numel() for t in ours]:
        raise Missing(f"its results have shapes {[list(t.shape) for t in theirs]}, not {[list(t.shape) for t in ours]}")
    worst = workload.difference(ours, theirs)  # NaN where one of them is
    if not worst <= _ANOTHER:
        raise Missing(f"its result differs by {worst:.2g} of the largest value: it computes something else")
    return worst


def _times(timing: Timing) -> dict[str, float]:
    return {"us": timing.us, "low_us": timing.low, "high_us": timing.high}
