"""Of sageattention 1.0: attention whose products of queries and keys are in int8."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim
from torch.library import triton_op

from public_kernels.kernel import BATCH, PublicKernel, public, randn

sage = public("sageattention", "sageattention")


@sage
def attention() -> PublicKernel:
    """Three launches, int8 temporaries, and a mean that it takes off its keys in place.

    Lengths are multiples of 64: at others the kernel counts keys that are not there.
    """
    from sageattention import sageattn

    @triton_op("sage::attention", mutates_args={})
    def op(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sageattn(q, k.clone(), v)

    return PublicKernel(
        op,
        lambda dtype: tuple(randn(2, 3, 192, 64, dtype=dtype, seed=seed) for seed in range(3)),
        ({0: BATCH, 2: 64 * Dim("blocks", min=2, max=4)},) * 3,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        dtypes=(torch.float16, torch.bfloat16),
        tolerance=5e-2,
    )


@sage
def quantization() -> PublicKernel:
    """int8 and a scale for each block of 128 queries or 64 keys, by one kernel twice."""
    from sageattention.quant_per_block import per_block_int8

    @triton_op("sage::quantization", mutates_args={})
    def op(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q8, q_scale, k8, _ = per_block_int8(q, k)
        return q8.to(torch.int32), q_scale, k8.to(torch.int32)

    def blocks(x: Tensor, size: int, factor: float) -> tuple[Tensor, Tensor]:
        pieces = [piece.float() * factor for piece in x.split(size, 2)]
        scales = [piece.abs().amax((2, 3), keepdim=True) / 127 for piece in pieces]
        rounded = [
            torch.where(p >= 0, p / s + 0.5, p / s - 0.5).to(torch.int32) for p, s in zip(pieces, scales, strict=True)
        ]
        return torch.cat(rounded, 2), torch.cat(scales, 2)

    def reference(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q8, scale = blocks(q, 128, 1.44269504 * q.shape[-1] ** -0.5)
        return q8, scale, blocks(k, 64, 1.0)[0]

    def fake(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scales = q.new_empty(*q.shape[:2], (q.shape[2] + 127) // 128, 1, dtype=torch.float32)
        return torch.empty_like(q, dtype=torch.int32), scales, torch.empty_like(k, dtype=torch.int32)

    return PublicKernel(
        op,
        lambda dtype: tuple(randn(2, 3, 150, 64, dtype=dtype, seed=seed) for seed in range(2)),
        ({0: BATCH, 2: Dim("length", min=129, max=300)},) * 2,  # two blocks or more, which torch.export asks for
        reference,
        fake=fake,
        tolerance=1,
    )
