"""How much of a call's GPU time is matrix products, and whose kernels compute them, by kernel name.

A convolution is none, and attention in one kernel is none. Names differ by version: a kernel that no rule knows counts
as something else, so the share is at least what is said.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from bridge.bench import kernels
from bridge.bench.kernels import Kernel

# The first rule that finds itself in a kernel's name says whose product it is; None: it is no product.
_RULES: tuple[tuple[str | None, re.Pattern[str]], ...] = (
    (None, re.compile(r"fprop|dgrad|wgrad|implicit|conv|fmha|flash|attention", re.IGNORECASE)),
    ("cuDNN", re.compile(r"cudnn\w*?(matmul|gemm)", re.IGNORECASE)),
    ("Triton", re.compile(r"triton_(tem_fused_)?\w*?(mm|bmm|addmm)\b|triton_(tem_fused_)?_?(mm|bmm|addmm)_")),
    ("CUTLASS", re.compile(r"cutlass\w*?(gemm|::Kernel)|cutlass_\d\d_\w*gemm", re.IGNORECASE)),
    ("TensorRT", re.compile(r"__?myl_?\w*(matmul|gemm)|trt\w*gemm|tensorrt\w*(gemm|matmul)", re.IGNORECASE)),
    ("cuBLAS", re.compile(r"nvjet|cublas|gemv|gemm|splitKreduce", re.IGNORECASE)),
)
_NAMED = 3  # kernels that are named, the slowest ones


def maker(name: str) -> str | None:
    """Whose matrix product a kernel is, from its name; None where it is none."""
    return next((maker for maker, rule in _RULES if rule.search(name)), None)


def measure(call: Callable[[], Any]) -> dict[str, Any] | None:
    """The products of a call, from a profile of its kernels; None where the profiler records none."""
    return of(kernels.trace(call))


def of(recorded: Sequence[Kernel]) -> dict[str, Any] | None:
    """share: of all kernels' time, by maker in `by`. kernels: the slowest products with their shares."""
    total = sum(kernel.us for kernel in recorded)
    if not total:
        return None
    makers = [(kernel, maker(kernel.name)) for kernel in recorded]
    found = [(kernel, by) for kernel, by in makers if by is not None]
    shares: dict[str, float] = {}
    for kernel, by in found:
        shares[by] = shares.get(by, 0.0) + kernel.us / total
    return {
        "share": sum(shares.values()),
        "by": dict(sorted(shares.items(), key=lambda item: -item[1])),
        "kernels": [{"name": kernel.name, "share": kernel.us / total} for kernel, _ in found[:_NAMED]],
    }
