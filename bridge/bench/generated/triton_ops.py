"""Operators in Triton as packages have them, for `bridge bench --generated`."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's parameters itself.

import triton
import triton.language as tl
from torch import Tensor, empty, empty_like, float32
from torch.library import triton_op, wrap_triton

_WARPS = [triton.Config({}, num_warps=warps) for warps in (2, 4, 8, 16)]
_BLOCKS = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((512, 4), (1024, 4), (2048, 8))]


@triton.autotune(_WARPS, key=["width"])
@triton.jit
def _rms_norm(x, weight, y, width, eps, BLOCK: tl.constexpr):
    """A program for each row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values) / width + eps)
    tl.store(y + row * width + columns, values * scale * tl.load(weight + columns, mask=inside, other=0.0), mask=inside)


@triton_op("bridge_bench::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """One kernel, whose number of warps is tuned. x: [N, C]. weight: [C]. Returns [N, C]."""
    rows, width = x.shape
    y = empty_like(x)
    wrap_triton(_rms_norm)[(rows,)](x, weight, y, width, eps, BLOCK=triton.next_power_of_2(width))
    return y


@triton.jit
def _reciprocal_rms(x, scales, width, eps, BLOCK: tl.constexpr):
    """A program for each row."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * width + columns, mask=columns < width, other=0.0).to(tl.float32)
        squares += values * values
    tl.store(scales + row, tl.rsqrt(tl.sum(squares) / width + eps))


@triton.autotune(_BLOCKS, key=["width"])
@triton.jit
def _scale(x, scales, weight, y, elements, width, BLOCK: tl.constexpr):
    """Blocks that mind no rows."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < elements
    values = tl.load(x + places, mask=inside).to(tl.float32)
    weights = tl.load(weight + places % width, mask=inside)
    tl.store(y + places, values * tl.load(scales + places // width, mask=inside) * weights, mask=inside)


@triton_op("bridge_bench::rms_norm_in_two", mutates_args=())
def rms_norm_in_two(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """The same in two kernels with a temporary between them; the second one's block is tuned."""
    rows, width = x.shape
    scales = empty(rows, dtype=float32, device=x.device)  # [N]
    y = empty_like(x)
    wrap_triton(_reciprocal_rms)[(rows,)](x, scales, width, eps, BLOCK=min(triton.next_power_of_2(width), 1024))
    wrap_triton(_scale)[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, scales, weight, y, x.numel(), width)
    return y
