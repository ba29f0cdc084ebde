"""What the GPU allows, as measured: traffic to memory, matrix products, and a launch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bridge.bench.workload import DTYPES, Workload
from bridge.engine.timing import time_call

_SIDE = 8192  # of the matrices
# float32 elements of a copy's source: so much that no L2 cache keeps a share that counts from one copy to the next.
_COPIES = (2**26, 2**27, 2**28)
# A kernel's copy, which negates, and the driver's.
_WAYS = (lambda pair: torch.neg(pair[0], out=pair[1]), lambda pair: pair[1].copy_(pair[0]))
_TF32_PRODUCTS = 3  # of TF32 numbers for one of float32, each number the sum of two; the smallest of four is left out


def measure_ceilings() -> dict[str, float]:
    """bytes_per_us of a copy in memory and in the L2, flops_per_us of a matrix product in each dtype, launch_us of a
    kernel of one element."""
    found = {"bytes_per_us": measure_copy(), "l2_bytes_per_us": measure_l2(), "l2_bytes": float(l2_bytes())}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=dtype) for _ in range(2))
        found[f"flops_per_us_{name}"] = 2 * _SIDE**3 / time_call(lambda pair: pair[0] @ pair[1], [(a, b)]).us
    found["flops_per_us_tf32"] = _measure_tf32()
    one = torch.randn(1, device="cuda")
    found["launch_us"] = time_call(lambda _: torch.relu(one), [None]).us
    return found


def _measure_tf32() -> float:
    """Of float32 rounded to TF32 on tensor cores."""
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda") for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return 2 * _SIDE**3 / time_call(lambda pair: pair[0] @ pair[1], [(a, b)]).us
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def l2_bytes() -> int:
    """Of the GPU's L2 cache."""
    return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size


def measure_l2() -> float:
    """Bytes read and written a microsecond of copies whose source and target the L2 holds: the most of some sizes."""
    sizes = [l2_bytes() // share for share in (4, 8, 16)]  # of source and target together
    found = []
    for size in sizes:
        source, target = torch.randn(2, max(1, size // 8), device="cuda")
        for way in _WAYS:
            found.append(2 * _bytes(source) / time_call(way, [(source, target)]).us)
    return max(found)


def measure_copy() -> float:
    """Bytes read and written a microsecond: the most of several sizes, each by a kernel and by the driver.

    In a CUDA graph the driver's copy is a node of another kind.
    """
    room = torch.randn(2, max(_COPIES), device="cuda")
    pairs = [(room[0, :size], room[1, :size]) for size in _COPIES]
    return max(2 * _bytes(pair[0]) / time_call(way, [pair]).us for pair in pairs for way in _WAYS)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def floors(workload: Workload, ceilings: dict[str, float], traffic: int | None = None) -> dict[str, float]:
    """The least time that memory, the L2, arithmetic and a launch allow, each alone, of calls one after the other.

    traffic: bytes of the call, where its values say how many. What the L2 holds need not come from memory again; so of
    a working set that it holds only its own rate counts.
    """
    count = workload.bytes() if traffic is None else traffic
    return {
        "memory": max(0.0, count - ceilings["l2_bytes"]) / ceilings["bytes_per_us"],
        "L2": count / ceilings["l2_bytes_per_us"],
        "arithmetic": workload.flops() / rate(workload.dtype, ceilings),
        "launch": ceilings["launch_us"],
    }


def rate(dtype: str, ceilings: Mapping[str, float]) -> float:
    """Operations of products a microsecond, by whichever unit does them faster in that precision."""
    plain = ceilings[f"flops_per_us_{dtype}"]
    return max(plain, ceilings.get("flops_per_us_tf32", 0.0) / _TF32_PRODUCTS) if dtype == "float32" else plain


def binding(found: dict[str, float]) -> str:
    """Which of the floors is the highest."""
    return max(found, key=lambda bound: found[bound])


def floor_us(workload: Workload, ceilings: dict[str, float]) -> float:
    """The largest of them."""
    return max(floors(workload, ceilings).values())


def refreshed(workload: Workload, ceilings: dict[str, float]) -> dict[str, float]:
    """The ceilings for a workload: where memory bounds it, with a copy measured now, for the GPU's clocks drift."""
    if binding(floors(workload, ceilings)) != "memory":
        return ceilings
    return ceilings | {"bytes_per_us": measure_copy()}
