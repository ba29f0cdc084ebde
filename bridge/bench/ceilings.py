"""Measured ceilings of the GPU: memory traffic, matrix products, kernel launches."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bridge.bench.workload import DTYPES, Workload
from bridge.engine.timing import time_call

_SIDE = 8192  # of the matrices
# float32 elements of a copy's source: large enough that an L2 cache keeps no significant share between copies.
_COPIES = (2**26, 2**27, 2**28)
# Further elements between source and target: times of large copies are bimodal, by where in memory the tensors lie.
_APART = (0, 3 * 2**16)
# A copy by a kernel, which negates, and a copy by the driver.
_COPY_KERNELS = (lambda pair: torch.neg(pair[0], out=pair[1]), lambda pair: pair[1].copy_(pair[0]))
# TF32 products per float32 product: each factor is a sum of two, and the smallest of the four products is dropped.
_TF32_PRODUCTS = 3
_L1_BYTES = 128  # that a multiprocessor reads from its L1 in a cycle


def measure_ceilings() -> dict[str, float]:
    """Ceilings by name.

    bytes_per_us: of a copy in memory, and l2_bytes_per_us of one in the L2; l1_bytes_per_us: not measured, of all
    multiprocessors at the highest clock. flops_per_us_…: of a matrix product in each dtype. launch_us: of a kernel on
    one element.
    """
    ceilings = {"bytes_per_us": measure_copy(), "l2_bytes_per_us": measure_l2(), "l2_bytes": float(l2_bytes())}
    ceilings["l1_bytes_per_us"] = l1_rate()
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=dtype) for _ in range(2))
        ceilings[f"flops_per_us_{name}"] = 2 * _SIDE**3 / time_call(lambda pair: pair[0] @ pair[1], [(a, b)]).us
    ceilings["flops_per_us_tf32"] = _measure_tf32()
    one = torch.randn(1, device="cuda")
    ceilings["launch_us"] = time_call(lambda _: torch.relu(one), [None]).us
    return ceilings


def _measure_tf32() -> float:
    """Operations per microsecond of a float32 product in TF32, on tensor cores."""
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda") for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return 2 * _SIDE**3 / time_call(lambda pair: pair[0] @ pair[1], [(a, b)]).us
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def l2_bytes() -> int:
    """The size of the GPU's L2 cache."""
    return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size


def l1_rate() -> float:
    """Bytes per microsecond that all L1 caches together can give."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return _L1_BYTES * properties.multi_processor_count * properties.clock_rate / 1e3  # clock_rate: in kHz


def measure_l2() -> float:
    """Bytes per microsecond, read and written, of copies within the L2: the maximum of several sizes."""
    sizes = [l2_bytes() // share for share in (4, 8, 16)]  # of source and target together
    rates = []
    for size in sizes:
        source, target = torch.randn(2, max(1, size // 8), device="cuda")
        for copy_kernel in _COPY_KERNELS:
            rates.append(2 * _bytes(source) / time_call(copy_kernel, [(source, target)]).us)
    return max(rates)


def measure_copy() -> float:
    """Bytes per microsecond, read and written: the maximum of several sizes and places, by a kernel and by the driver.

    In a CUDA graph, the driver's copy is a memcpy node.
    """
    most = max(_COPIES)
    buffer = torch.randn(2 * most + max(_APART), device="cuda")
    pairs = [(buffer[:size], buffer[most + apart :][:size]) for size in _COPIES for apart in _APART]
    return max(
        2 * _bytes(pair[0]) / time_call(copy_kernel, [pair]).us for pair in pairs for copy_kernel in _COPY_KERNELS
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def floors(
    workload: Workload, ceilings: dict[str, float], traffic: int | None = None, gathered: int = 0
) -> dict[str, float]:
    """The least time of back-to-back calls that memory, the L2, the L1, arithmetic and a launch allow, each alone.

    traffic, gathered: bytes of the call, which may depend on its values. Data in the L2 is not read from memory again,
    so a working set within it is bound by the L2's rate only. Runs of earlier versions have no rate of the L1.
    """
    count = workload.bytes() if traffic is None else traffic
    return _floors(count, gathered, workload.flops(), workload.dtype, ceilings)


def _floors(count: int, gathered: int, flops: int, dtype: str, ceilings: Mapping[str, float]) -> dict[str, float]:
    return {
        "memory": max(0.0, count - ceilings["l2_bytes"]) / ceilings["bytes_per_us"],
        "L2": count / ceilings["l2_bytes_per_us"],
        "L1": gathered / ceilings.get("l1_bytes_per_us", math.inf),
        "arithmetic": flops / rate(dtype, ceilings),
        "launch": ceilings["launch_us"],
    }


def with_reached(run: dict[str, Any]) -> dict[str, Any]:
    """The run, with no floor of a launch or of the L2 above what its rows reached.

    What a launch costs depends on the kernel and on the one before it, so that no one kernel measures the least. A copy
    in the L2 waits for its launches, which kernels that begin before the one before them has ended do not.
    """
    return _with_reached_l2(_with_least_launch(run))


def _with_least_launch(run: dict[str, Any]) -> dict[str, Any]:
    timings = [timing for row in run["rows"] for timing in (row, *row.get("peers", {}).values()) if "us" in timing]
    least = min([run["ceilings"]["launch_us"], *(timing["us"] for timing in timings)])
    rows = [
        {**row, "floor_us": min(row["floor_us"], least)} if row.get("floor") == "launch" else row for row in run["rows"]
    ]
    return {**run, "ceilings": {**run["ceilings"], "launch_us": least}, "rows": rows}


def _with_reached_l2(run: dict[str, Any]) -> dict[str, Any]:
    """Peers do not count: one that overwrites its arguments touches fewer bytes than the row."""
    share = min([1.0, *(row["us"] / row["floor_us"] for row in run["rows"] if row.get("floor") == "L2")])
    if share == 1:
        return run
    ceilings = {**run["ceilings"], "l2_bytes_per_us": run["ceilings"]["l2_bytes_per_us"] / share}

    def lowered(row: dict[str, Any]) -> dict[str, Any]:
        its_copy = row.get("bytes_per_us", ceilings["bytes_per_us"])
        found = _floors(row["bytes"], 0, row["flops"], row["dtype"], {**ceilings, "bytes_per_us": its_copy})
        found["L2"] = row["floor_us"] * share  # by the ceilings of its own run
        return {**row, "floor": binding(found), "floor_us": max(found.values())}

    return {**run, "ceilings": ceilings, "rows": [lowered(r) if r.get("floor") == "L2" else r for r in run["rows"]]}


def rate(dtype: str, ceilings: Mapping[str, float]) -> float:
    """Operations per microsecond of products in a dtype, by the faster unit of that precision."""
    plain = ceilings[f"flops_per_us_{dtype}"]
    return max(plain, ceilings.get("flops_per_us_tf32", 0.0) / _TF32_PRODUCTS) if dtype == "float32" else plain


def binding(floors_us: dict[str, float]) -> str:
    """The name of the highest floor."""
    return max(floors_us, key=lambda bound: floors_us[bound])


def floor_us(workload: Workload, ceilings: dict[str, float]) -> float:
    """The highest floor, in microseconds."""
    return max(floors(workload, ceilings).values())


def refreshed(workload: Workload, ceilings: dict[str, float]) -> dict[str, float]:
    """The ceilings for a workload. Where memory bounds it, the copy is measured again, since GPU clocks drift."""
    if binding(floors(workload, ceilings)) != "memory":
        return ceilings
    return ceilings | {"bytes_per_us": measure_copy()}
