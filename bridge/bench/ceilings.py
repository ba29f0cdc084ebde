"""What the GPU allows, as measured: traffic to memory, matrix products, and a launch."""

import torch
from torch import Tensor

from bridge.bench.workloads import DTYPES, Workload
from bridge.timing import time_call

_SIDE = 8192  # of the matrices
# float32 elements of a copy's source: so much that no L2 cache keeps a share that counts from one copy to the next.
_COPIES = (2**26, 2**27, 2**28)


def measure_ceilings() -> dict[str, float]:
    """bytes_per_us of a copy, flops_per_us of a matrix product in each dtype, launch_us of a kernel of one element."""
    found = {"bytes_per_us": measure_copy()}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=dtype) for _ in range(2))
        found[f"flops_per_us_{name}"] = 2 * _SIDE**3 / time_call(lambda pair: pair[0] @ pair[1], [(a, b)]).us
    one = torch.randn(1, device="cuda")
    found["launch_us"] = time_call(lambda _: torch.relu(one), [None]).us
    return found


def measure_copy() -> float:
    """Bytes read and written a microsecond: the most of several sizes, each by a kernel and by the driver.

    In a CUDA graph the driver's copy is a node of another kind.
    """
    ways = (lambda pair: torch.neg(pair[0], out=pair[1]), lambda pair: pair[1].copy_(pair[0]))
    room = torch.randn(2, max(_COPIES), device="cuda")
    pairs = [(room[0, :size], room[1, :size]) for size in _COPIES]
    return max(2 * _bytes(pair[0]) / time_call(way, [pair]).us for pair in pairs for way in ways)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def floors(workload: Workload, ceilings: dict[str, float]) -> dict[str, float]:
    """The least time that memory, arithmetic and a launch allow, each alone."""
    return {
        "memory": workload.bytes() / ceilings["bytes_per_us"],
        "arithmetic": workload.flops() / ceilings[f"flops_per_us_{workload.dtype}"],
        "launch": ceilings["launch_us"],
    }


def floor_us(workload: Workload, ceilings: dict[str, float]) -> float:
    """The largest of them."""
    return max(floors(workload, ceilings).values())


def refreshed(workload: Workload, ceilings: dict[str, float]) -> dict[str, float]:
    """The ceilings for a workload: where memory bounds it, with a copy measured now, for the GPU's clocks drift."""
    known = floors(workload, ceilings)
    if max(known, key=lambda bound: known[bound]) != "memory":
        return ceilings
    return ceilings | {"bytes_per_us": measure_copy()}
