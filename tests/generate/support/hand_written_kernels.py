"""Triton kernels for tests of generated ops."""

import triton
import triton.language as tl


@triton.jit
def row_scale(x_ptr, scale_ptr, n_cols, eps, BLOCK: tl.constexpr):
    """The reciprocal root mean square of every row."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n_cols + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
    tl.store(scale_ptr + row, 1.0 / tl.sqrt(tl.sum(x * x) / n_cols + eps))


@triton.jit
def apply_scale(x_ptr, scale_ptr, weight_ptr, y_ptr, n_cols, BLOCK: tl.constexpr):
    """Rows times their scale and a weight for each column."""
    row = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < n_cols
    x = tl.load(x_ptr + row * n_cols + cols, mask=mask).to(tl.float32)
    y = x * tl.load(scale_ptr + row) * tl.load(weight_ptr + cols, mask=mask).to(tl.float32)
    tl.store(y_ptr + row * n_cols + cols, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """a [m, k] times b [k, n]."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        at = start + inner
        a = tl.load(a_ptr + rows[:, None] * k + at[None, :], mask=(rows[:, None] < m) & (at[None, :] < k), other=0.0)
        b = tl.load(b_ptr + at[:, None] * n + cols[None, :], mask=(at[:, None] < k) & (cols[None, :] < n), other=0.0)
        total = tl.dot(a, b, total)
    mask = (rows[:, None] < m) & (cols[None, :] < n)
    tl.store(c_ptr + rows[:, None] * n + cols[None, :], total.to(c_ptr.dtype.element_ty), mask=mask)


@triton.jit
def clamp_scaled(x_ptr, y_ptr, count, factor, low, high, negate, float, BLOCK: tl.constexpr):
    """clamp(x * factor, low, high), and its negative; `float` is added: a name that C++ keeps for itself."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < count).to(tl.float64) * factor
    y = tl.minimum(tl.maximum(x, low), high) + float
    y = tl.where(negate != 0, -y, y)
    tl.store(y_ptr + at, y.to(tl.float32), mask=at < count)


@triton.jit
def histogram(index_ptr, count_ptr, n, BLOCK: tl.constexpr):
    """Adds one for every index."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(index_ptr + at, mask=at < n, other=0)
    tl.atomic_add(count_ptr + index, 1, mask=at < n)


@triton.jit
def tile_copy(x_ptr, y_ptr, rows, cols, BM: tl.constexpr, BN: tl.constexpr):
    """A copy by tensor descriptors, which lie in global scratch memory from compute capability 9.0 on."""
    source = tl.make_tensor_descriptor(x_ptr, shape=[rows, cols], strides=[cols, 1], block_shape=[BM, BN])
    target = tl.make_tensor_descriptor(y_ptr, shape=[rows, cols], strides=[cols, 1], block_shape=[BM, BN])
    at = [tl.program_id(0) * BM, tl.program_id(1) * BN]
    target.store(at, source.load(at))


@triton.jit
def row_sum(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """The sum of a row."""
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, BLOCK))))


@triton.jit
def asks_target(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Adds what its target is: 90 and later, or not."""
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at) + (7.0 if tl.target_info.cuda_capability_geq(9, 0) else 5.0))


@triton.jit
def asserts(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Compiles for large blocks alone."""
    tl.static_assert(BLOCK > 64, "BLOCK is too small")


@triton.jit
def calls_nothing_known(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Does not compile."""
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, no_such_function(tl.load(x_ptr + at)))  # noqa: F821
