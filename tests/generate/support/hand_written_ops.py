"""Instances of generated ops as the front ends make them."""

import sympy
import torch
from hand_written_kernels import apply_scale, clamp_scaled, histogram, matmul, row_scale, tile_copy

from bridge.generate.program import (
    Argument,
    Buffer,
    Configuration,
    Copy,
    Instance,
    Launch,
    Pointer,
    Region,
    Symbol,
    TensorType,
    Zero,
)

ROWS, COLS = sympy.symbols("s0 s1", integer=True, positive=True)


def ceil_div(a, b):
    """As kernels' grids have it."""
    return (a + b - 1) // b


def symbols(rows=(1, 64), cols=(16, 4096)):
    """Rows and columns of input 0."""
    return (Symbol(ROWS, 0, 0, *rows, rows[1]), Symbol(COLS, 0, 1, *cols, cols[1]))


def rms_norm(dtype=torch.float16, configurations=None, **ranges):
    """Two kernels with a buffer between them; regions by the width; the second kernel may be tuned."""
    x, weight, y, scale = Pointer("input", 0), Pointer("input", 1), Pointer("output", 0), Pointer("buffer", 0)
    kind = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}[dtype]

    def region(conditions, block):
        first = Launch(
            row_scale,
            (
                Argument("x_ptr", kind, x, "maybe"),
                Argument("scale_ptr", "*fp32", scale, "always"),
                Argument("n_cols", "i32", COLS, "maybe"),
                Argument("eps", "fp32", 1e-6),
            ),
            (Configuration({"BLOCK": block}, {"num_warps": 4}, (ROWS, 1, 1)),),
        )
        second = Launch(
            apply_scale,
            (
                Argument("x_ptr", kind, x, "maybe"),
                Argument("scale_ptr", "*fp32", scale, "always"),
                Argument("weight_ptr", kind, weight, "maybe"),
                Argument("y_ptr", kind, y, "maybe"),
                Argument("n_cols", "i32", COLS, "maybe"),
            ),
            tuple(
                Configuration({"BLOCK": width}, {"num_warps": warps}, (ROWS, ceil_div(COLS, width), 1))
                for width, warps in configurations or [(256, 4)]
            ),
        )
        return Region(conditions, (Buffer(4 * ROWS),), (first, second))

    return Instance(
        operator="acme::rms_norm",
        schema="rms_norm(Tensor x, Tensor weight, float eps=1e-06) -> Tensor",
        inputs=(TensorType(dtype, (ROWS, COLS)), TensorType(dtype, (COLS,))),
        attributes={"eps": 1e-6},
        outputs=(TensorType(dtype, (ROWS, COLS)),),
        symbols=symbols(**ranges),
        regions=(region((COLS <= 512,), 512), region((), 4096)),
    )


def product(configurations, low=1):
    """A tuned matrix product: configurations are (BM, BN, BK, num_stages, num_warps)."""
    m, k, n = sympy.symbols("m k n", integer=True, positive=True)
    launch = Launch(
        matmul,
        (
            Argument("a_ptr", "*fp16", Pointer("input", 0), "maybe"),
            Argument("b_ptr", "*fp16", Pointer("input", 1), "maybe"),
            Argument("c_ptr", "*fp16", Pointer("output", 0), "maybe"),
            Argument("m", "i32", m, "maybe"),
            Argument("n", "i32", n, "maybe"),
            Argument("k", "i32", k, "maybe"),
        ),
        tuple(
            Configuration(
                {"BM": bm, "BN": bn, "BK": bk},
                {"num_stages": stages, "num_warps": warps},
                (ceil_div(m, bm), ceil_div(n, bn), 1),
            )
            for bm, bn, bk, stages, warps in configurations
        ),
    )
    return Instance(
        operator="acme::product",
        schema="product(Tensor a, Tensor b) -> Tensor",
        inputs=(TensorType(torch.float16, (m, k)), TensorType(torch.float16, (k, n))),
        attributes={},
        outputs=(TensorType(torch.float16, (m, n)),),
        symbols=(Symbol(m, 0, 0, low, 512, 128), Symbol(k, 0, 1, low, 512, 128), Symbol(n, 1, 1, low, 512, 128)),
        regions=(Region((), (), (launch,)),),
    )


def clamped(low=-1.5, high=float("inf"), negate=True):
    """Scalars of each type, and parameters whose names C++ has another use for."""
    launch = Launch(
        clamp_scaled,
        (
            Argument("x_ptr", "*fp32", Pointer("input", 0), "maybe"),
            Argument("y_ptr", "*fp32", Pointer("output", 0), "maybe"),
            Argument("count", "i64", ROWS * COLS, "never"),
            Argument("factor", "fp64", 0.1),
            Argument("low", "fp32", low),
            Argument("high", "fp32", high),
            Argument("negate", "i1", negate),
            Argument("float", "fp32", 2),
        ),
        (Configuration({"BLOCK": 128}, {"num_warps": 4}, (ceil_div(ROWS * COLS, 128), 1, 1)),),
    )
    return Instance(
        operator="acme::clamped",
        schema=(
            'clamped(Tensor x, Tensor? bias=None, *, str mode="a\\"b", int[2] double=1, float[] name=[0.5], '
            "bool negate=True, float low=-1.5, int[] axes=[1, 2]) -> Tensor"
        ),
        inputs=(TensorType(torch.float32, (ROWS, COLS)), None),
        attributes={
            "mode": 'a"b',
            "double": (1, 1),
            "name": [0.5],
            "negate": negate,
            "low": low,
            "axes": [1, 2],
        },
        outputs=(TensorType(torch.float32, (ROWS, COLS)),),
        symbols=symbols(cols=(1, 300)),
        regions=(Region((), (), (launch,)),),
    )


def counted():
    """Zeroed memory, atomics, a buffer that is copied in part, a static output, no region beyond 280 columns."""
    buffer = Pointer("buffer", 0, 16)
    launch = Launch(
        histogram,
        (
            Argument("index_ptr", "*i32", Pointer("input", 0), "maybe"),
            Argument("count_ptr", "*i32", buffer, "always"),
            Argument("n", "i32", ROWS * COLS, "maybe"),
        ),
        (Configuration({"BLOCK": 64}, {"num_warps": 2}, (ceil_div(ROWS * COLS, 64), 1, 1)),),
    )
    return Instance(
        operator="acme::counted",
        schema="counted(Tensor index) -> (Tensor, Tensor)",
        inputs=(TensorType(torch.int32, (ROWS, COLS)),),
        attributes={},
        outputs=(TensorType(torch.int32, (8,)), TensorType(torch.int32, (ROWS, COLS))),
        symbols=symbols(cols=(1, 300)),
        regions=(
            Region(
                (COLS <= 280,),
                (Buffer(16 + 32), Buffer(4)),
                (
                    Zero(buffer, 32),
                    launch,
                    Copy(buffer, Pointer("output", 0), 32),
                    Copy(Pointer("input", 0), Pointer("output", 1), 4 * ROWS * COLS),
                ),
            ),
        ),
    )


def tiled():
    """A kernel with tensor descriptors of its own."""
    launch = Launch(
        tile_copy,
        (
            Argument("x_ptr", "*fp16", Pointer("input", 0), "always"),
            Argument("y_ptr", "*fp16", Pointer("output", 0), "always"),
            Argument("rows", "i32", ROWS),
            Argument("cols", "i32", COLS, "always"),
        ),
        (Configuration({"BM": 16, "BN": 64}, {"num_warps": 4}, (ceil_div(ROWS, 16), ceil_div(COLS, 64), 1)),),
    )
    return Instance(
        operator="acme::tiled",
        schema="tiled(Tensor x) -> Tensor",
        inputs=(TensorType(torch.float16, (ROWS, COLS)),),
        attributes={},
        outputs=(TensorType(torch.float16, (ROWS, COLS)),),
        symbols=symbols(),
        regions=(Region((), (), (launch,)),),
    )


def with_kernel(kernel, options=None, argument="*fp32"):
    """An op of one kernel with two pointers and a BLOCK."""
    launch = Launch(
        kernel,
        (Argument("x_ptr", argument, Pointer("input", 0)), Argument("y_ptr", "*fp32", Pointer("output", 0))),
        (Configuration({"BLOCK": 16}, options or {"num_warps": 1}, (1, 1, 1)),),
    )
    return Instance(
        operator="acme::single",
        schema="single(Tensor x) -> Tensor",
        inputs=(TensorType(torch.float32, (16,)),),
        attributes={},
        outputs=(TensorType(torch.float32, (16,)),),
        symbols=(),
        regions=(Region((), (), (launch,)),),
    )
