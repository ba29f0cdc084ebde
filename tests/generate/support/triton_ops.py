"""Triton operators as users write them, for the tests of generated plugins."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def _row_scale(x, out, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    values = tl.load(x + row * width + columns, mask=columns < width, other=0.0).to(tl.float32)
    tl.store(out + row, tl.rsqrt(tl.sum(values * values) / width + eps))


@triton.autotune(
    [triton.Config({"BLOCK": 256}, num_warps=4), triton.Config({"BLOCK": 1024}, num_warps=8)], key=["width"]
)
@triton.jit
def _scale_rows(x, scale, weight, y, width, BLOCK: tl.constexpr):
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside).to(tl.float32)
    values = values * tl.load(scale + row) * tl.load(weight + columns, mask=inside)
    tl.store(y + row * width + columns, values, mask=inside)


@triton_op("generate_test::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Two kernels with a temporary between them, the second one autotuned."""
    rows = x.reshape(-1, x.shape[-1])
    count, width = rows.shape
    scale = torch.empty(count, dtype=torch.float32, device=x.device)
    y = torch.empty_like(x)
    wrap_triton(_row_scale)[(count,)](rows, scale, width, eps, BLOCK=triton.next_power_of_2(width))
    wrap_triton(_scale_rows)[lambda meta: (count, triton.cdiv(width, meta["BLOCK"]))](rows, scale, weight, y, width)
    return y


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """What rms_norm computes."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


@triton.jit
def _axpy(x, y, out, n, alpha, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    value = tl.load(x + i, mask=inside) * alpha
    if BIAS:
        value += tl.load(y + i, mask=inside)
    tl.store(out + i, value, mask=inside)


@triton_op("generate_test::axpy", mutates_args=())
def axpy(x: Tensor, y: Tensor | None, alpha: float, times: int = 1) -> Tensor:
    """Launched without wrap_triton; y may be absent; an operator of torch on each side."""
    x = x * times
    out = torch.zeros_like(x)
    _axpy[(triton.cdiv(x.numel(), 128),)](x, y, out, x.numel(), alpha, BIAS=y is not None, BLOCK=128)
    return out + 1


@triton.heuristics({"EVEN": lambda args: args["n"] % 64 == 0})
@triton.jit
def _double(x, out, n, EVEN: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EVEN:
        tl.store(out + i, tl.load(x + i) * 2)
    else:
        tl.store(out + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)


@triton_op("generate_test::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    """A kernel whose constant is a heuristic of an extent."""
    out = torch.empty_like(x)
    _double[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), BLOCK=64)
    return out
