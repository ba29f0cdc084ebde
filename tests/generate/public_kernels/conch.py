"""Of conch-triton-kernels: launchers that write into what they are given."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim
from torch.library import triton_op

from public_kernels.kernel import ROWS, WIDTH, PublicKernel, public, randn

conch = public("conch", "conch-triton-kernels")


def doubled(dtype: torch.dtype) -> tuple[Tensor]:
    return (randn(5, 200, dtype=dtype),)


@conch
def silu_and_mul() -> PublicKernel:
    from conch.kernels.activation.silu_and_mul import silu_and_mul_launcher

    @triton_op("conch::silu_and_mul", mutates_args={})
    def op(x: Tensor) -> Tensor:
        result = x.new_empty(x.shape[0], x.shape[1] // 2)
        silu_and_mul_launcher(result, x)
        return result

    def reference(x: Tensor) -> Tensor:
        gate, value = x.float().chunk(2, -1)
        return (F.silu(gate) * value).to(x.dtype)

    return PublicKernel(op, doubled, ({0: ROWS, 1: 2 * WIDTH},), reference)


@conch
def gelu_tanh_and_mul() -> PublicKernel:
    """Float constexprs; its kernel takes the tanh of what it loads, which is for float32 alone."""
    from conch.kernels.activation.gelu_tanh_and_mul import gelu_tanh_and_mul_launcher

    @triton_op("conch::gelu_tanh_and_mul", mutates_args={})
    def op(x: Tensor) -> Tensor:
        result = x.new_empty(x.shape[0], x.shape[1] // 2)
        gelu_tanh_and_mul_launcher(result, x)
        return result

    def reference(x: Tensor) -> Tensor:
        gate, value = x.float().chunk(2, -1)
        return (F.gelu(gate, approximate="tanh") * value).to(x.dtype)

    return PublicKernel(op, doubled, ({0: ROWS, 1: 2 * WIDTH},), reference, dtypes=(torch.float32,))


@conch
def rms_norm() -> PublicKernel:
    """An absent pointer that the kernel never reads."""
    from conch.kernels.normalization.rms_norm import rms_norm_launcher

    @triton_op("conch::rms_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        result = torch.empty_like(x)
        rms_norm_launcher(result, x, weight, eps)
        return result

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), randn(100, dtype=dtype, seed=1)),
        ({0: ROWS, 1: WIDTH}, {0: WIDTH}),
        lambda x, weight, eps: F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype),
        {"eps": 1e-6},
    )


@conch
def rotary_embedding() -> PublicKernel:
    """int64 positions, pointers that are const, and writes in place, into copies."""
    from conch.kernels.embedding.rotary_embedding import rotary_embedding_launcher

    @triton_op("conch::rotary_embedding", mutates_args={})
    def op(positions: Tensor, q: Tensor, k: Tensor, table: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
        q, k = q.clone(), k.clone()
        rotary_embedding_launcher(positions, q, k, head_size, table)
        return q, k

    def reference(positions: Tensor, q: Tensor, k: Tensor, table: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
        cos, sin = table[positions].float()[:, None].chunk(2, -1)

        def rotated(x: Tensor) -> Tensor:
            first, second = x.float().unflatten(1, (-1, head_size)).chunk(2, -1)
            return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).flatten(1).to(x.dtype)

        return rotated(q), rotated(k)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        angles = randn(50, 8, seed=2)
        table = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
        return torch.tensor([3, 0, 49, 7, 7]), randn(5, 64, dtype=dtype), randn(5, 32, dtype=dtype, seed=1), table

    return PublicKernel(
        op, inputs, ({0: ROWS}, {0: ROWS}, {0: ROWS}, None), reference, {"head_size": 16}, tolerance=1e-3
    )


@conch
def int8_quantization() -> PublicKernel:
    """int8 out, which no TensorRT plugin has without quantisation parameters; the op widens it."""
    from conch.kernels.quantization.int8 import static_scaled_int8_quant_launcher

    @triton_op("conch::int8_quantization", mutates_args={})
    def op(x: Tensor, scale: Tensor) -> Tensor:
        result = x.new_empty(x.shape, dtype=torch.int8)
        static_scaled_int8_quant_launcher(result, x, scale)
        return result.to(torch.int32)

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), torch.tensor([0.02])),
        ({0: ROWS, 1: WIDTH}, None),
        lambda x, scale: (x.float() / scale).round().clamp(-128, 127).to(torch.int32),
        tolerance=1,
    )


@conch
def bev_pool() -> PublicKernel:
    """Sums of image features in the cells of a bird's-eye view, from CUDA code that many detectors have."""
    from conch.kernels.vision.bev_pool import bev_pool_launcher

    @triton_op("conch::bev_pool", mutates_args={})
    def op(features: Tensor, cells: Tensor, starts: Tensor, lengths: Tensor, grid: list[int]) -> Tensor:
        batch, z, x, y = grid
        result = features.new_zeros(batch, z, x, y, features.shape[1])
        bev_pool_launcher(result, features, cells, starts, lengths)
        return result

    def reference(features: Tensor, cells: Tensor, starts: Tensor, lengths: Tensor, grid: list[int]) -> Tensor:
        batch, z, x, y = grid
        result = features.new_zeros(batch, z, x, y, features.shape[1])
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            at_x, at_y, at_z, b = cells[start].tolist()
            result[b, at_z, at_x, at_y] = features[start : start + length].float().sum(0)
        return result

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        cells = torch.tensor([[1, 2, 0, 0]] * 3 + [[0, 3, 1, 1]] * 4 + [[2, 2, 0, 1]]).int()  # x, y, z, image
        return randn(8, 20, dtype=dtype), cells, torch.tensor([0, 3, 7]).int(), torch.tensor([3, 4, 1]).int()

    points, intervals = Dim("points", min=8, max=100), Dim("intervals", min=3, max=50)
    return PublicKernel(
        op,
        inputs,
        ({0: points}, {0: points}, {0: intervals}, {0: intervals}),
        reference,
        {"grid": [2, 2, 3, 4]},
        lambda features, cells, starts, lengths, grid: features.new_empty(*grid, features.shape[1]),
        dtypes=(torch.float32,),
    )
