"""The Triton kernels of acme_norm::gated_rms_norm. Rows are dense, and of any width."""

import triton
import triton.language as tl

# For the second kernel; its best block depends on the width alone.
CONFIGURATIONS = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((512, 4), (1024, 4), (2048, 8))]


@triton.jit
def reciprocal_rms(x, result, width, eps, BLOCK: tl.constexpr):
    """result[row] = 1 / sqrt(mean(x[row]^2) + eps), in float32; a program for each row."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * width + columns, mask=columns < width, other=0.0).to(tl.float32)
        squares += values * values
    tl.store(result + row, tl.rsqrt(tl.sum(squares) / width + eps))


@triton.autotune(CONFIGURATIONS, key=["width"])
@triton.jit
def scale_and_gate(x, gate, weight, scales, result, elements, width, BLOCK: tl.constexpr):
    """result = x * scales[row] * weight[column] * silu(gate), in blocks that mind no rows."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < elements
    row, column = offsets // width, offsets % width
    values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    gates = tl.load(gate + offsets, mask=inside, other=0.0).to(tl.float32)
    weights = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = values * tl.load(scales + row, mask=inside, other=0.0) * weights
    tl.store(result + offsets, normed * gates * tl.sigmoid(gates), mask=inside)
