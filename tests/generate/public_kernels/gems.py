"""Of flag_gems, which launches through a wrapper of its own, and asks for a GPU when it is imported."""

import os
from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim
from torch.library import triton_op

from public_kernels.kernel import BATCH, LENGTH, ROWS, WIDTH, PublicKernel, public, randn

GPU = SimpleNamespace(
    name="NVIDIA A10", major=8, minor=6, multi_processor_count=72, total_memory=24 << 30, L2_cache_size=6 << 20
)


def gems(make: Callable[[], PublicKernel]) -> Callable[[], PublicKernel]:
    """A kernel whose package is imported as if there were a GPU; it keeps a database, in memory here."""

    @wraps(make)
    def made() -> PublicKernel:
        answers = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_name": GPU.name}
        answers |= {"get_device_capability": (GPU.major, GPU.minor), "get_device_properties": GPU}
        if torch.cuda.is_available():
            answers = {}
        stubs = {name: lambda *_, answer=answer: answer for name, answer in answers.items()}
        settings = {"GEMS_VENDOR": "nvidia", "FLAGGEMS_DB_URL": "sqlite://"}
        with patch.multiple(torch.cuda, **stubs), patch.dict(os.environ, settings):
            return make()

    return public("flag_gems", "flag_gems")(made)  # which needs sqlalchemy, too


@gems
def rms_norm() -> PublicKernel:
    from flag_gems.ops.rms_norm import rms_norm_forward

    @triton_op("gems::rms_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm_forward(x, weight.shape, weight, eps)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 5, 100, dtype=dtype), randn(100, dtype=dtype, seed=1)),
        ({0: BATCH, 1: LENGTH, 2: WIDTH}, {0: WIDTH}),
        lambda x, weight, eps: F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype),
        {"eps": 1e-6},
    )


@gems
def layer_norm() -> PublicKernel:
    """One of three kernels, by the width."""
    from flag_gems.ops.layernorm import layer_norm

    @triton_op("gems::layer_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return layer_norm(x, weight.shape, weight, bias, eps)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), randn(100, dtype=dtype, seed=1), randn(100, dtype=dtype, seed=2)),
        ({0: ROWS, 1: WIDTH}, {0: WIDTH}, {0: WIDTH}),
        lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, weight, bias, eps),
        {"eps": 1e-5},
    )


@gems
def skip_layer_norm() -> PublicKernel:
    """By way of an autograd function."""
    from flag_gems.fused.skip_layernorm import skip_layer_norm

    @triton_op("gems::skip_layer_norm", mutates_args={})
    def op(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return skip_layer_norm(x, residual, weight.shape, weight, bias, eps)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        rows = [randn(5, 100, dtype=dtype, seed=seed) for seed in range(2)]
        return *rows, randn(100, dtype=dtype, seed=2), randn(100, dtype=dtype, seed=3)

    def reference(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        sums = x.float() + residual.float()
        return F.layer_norm(sums, weight.shape, weight.float(), bias.float(), eps).to(x.dtype)

    return PublicKernel(op, inputs, ({0: ROWS}, {0: ROWS}, None, None), reference, {"eps": 1e-5})


@gems
def softmax() -> PublicKernel:
    """Heuristics that choose the warps, too."""
    from flag_gems.ops.softmax import softmax

    @triton_op("gems::softmax", mutates_args={})
    def op(x: Tensor) -> Tensor:
        return softmax(x, -1)

    return PublicKernel(
        op, lambda dtype: (randn(5, 100, dtype=dtype),), ({0: ROWS, 1: WIDTH},), lambda x: x.softmax(-1)
    )


@gems
def rotary() -> PublicKernel:
    from flag_gems.fused.rotary_embedding import apply_rotary_pos_emb

    @triton_op("gems::rotary", mutates_args={})
    def op(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return apply_rotary_pos_emb(q, k, cos, sin)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        angles = randn(256, 8, seed=2)
        q, k = randn(2, 7, 4, 16, dtype=dtype), randn(2, 7, 2, 16, dtype=dtype, seed=1)
        return q, k, angles.cos(), angles.sin()

    def reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        c, s = cos[: q.shape[1], None], sin[: q.shape[1], None]

        def rotated(x: Tensor) -> Tensor:
            first, second = x.float().chunk(2, -1)
            return torch.cat((first * c - second * s, second * c + first * s), -1).to(x.dtype)

        return rotated(q), rotated(k)

    sizes = {0: BATCH, 1: LENGTH}
    return PublicKernel(op, inputs, (sizes, sizes, None, None), reference)


@gems
def upsample_nearest() -> PublicKernel:
    """Scales that are quotients of extents, as float arguments."""
    from flag_gems.ops.upsample_nearest2d import upsample_nearest2d

    @triton_op("gems::upsample_nearest", mutates_args={})
    def op(x: Tensor, size: list[int]) -> Tensor:
        return upsample_nearest2d(x, size)

    height, width = Dim("height", min=1, max=64), Dim("width", min=1, max=64)
    return PublicKernel(
        op,
        lambda dtype: (randn(2, 3, 10, 12, dtype=dtype),),
        ({0: BATCH, 2: height, 3: width},),
        lambda x, size: F.interpolate(x, size),
        {"size": [20, 36]},
    )


@gems
def upsample_bicubic() -> PublicKernel:
    from flag_gems.ops.upsample_bicubic2d import upsample_bicubic2d

    @triton_op("gems::upsample_bicubic", mutates_args={})
    def op(x: Tensor, size: list[int]) -> Tensor:
        return upsample_bicubic2d(x, size)

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 3, 10, 12, dtype=dtype),),
        ({0: BATCH},),
        lambda x, size: F.interpolate(x, size, mode="bicubic", align_corners=False),
        {"size": [20, 36]},
        tolerance=1e-3,
    )


@gems
def silu_and_mul() -> PublicKernel:
    """A kernel that the package writes for the ranks of its call, whose elements it counts in a way of its own."""
    from flag_gems.fused.silu_and_mul import silu_and_mul

    @triton_op("gems::silu_and_mul", mutates_args={})
    def op(x: Tensor, y: Tensor) -> Tensor:
        return silu_and_mul(x, y)

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), randn(5, 100, dtype=dtype, seed=1)),
        ({0: ROWS}, {0: ROWS}),
        lambda x, y: (F.silu(x.float()) * y.float()).to(x.dtype),
        refusal="cannot become a plugin",
    )
