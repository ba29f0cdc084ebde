"""Of fla-core (flash-linear-attention), its ops along the length: sums, recurrences, attention."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim
from torch.library import triton_op

from public_kernels.kernel import BATCH, LENGTH, ROWS, PublicKernel, public, randn

fla = public("fla", "fla-core")  # which needs einops, too
FLOATS_OF_PRODUCTS = (torch.float16, torch.bfloat16)  # float32 products round to TF32


@fla
def chunk_cumsum() -> PublicKernel:
    """Sums within pieces of 16 steps; the batch is a constexpr."""
    from fla.ops.utils.cumsum import chunk_local_cumsum_scalar

    @triton_op("fla::chunk_cumsum", mutates_args={})
    def op(g: Tensor, chunk: int) -> Tensor:
        return chunk_local_cumsum_scalar(g, chunk)

    def reference(g: Tensor, chunk: int) -> Tensor:
        return torch.cat([piece.float().cumsum(1) for piece in g.split(chunk, 1)], 1)

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 37, 3, dtype=dtype),),
        ({1: LENGTH},),
        reference,
        {"chunk": 16},
        lambda g, chunk: torch.empty_like(g, dtype=torch.float32),
    )


@fla
def cumsum() -> PublicKernel:
    """A loop over the length inside of its kernel."""
    from fla.ops.utils.cumsum import chunk_global_cumsum_vector

    @triton_op("fla::cumsum", mutates_args={})
    def op(s: Tensor) -> Tensor:
        return chunk_global_cumsum_vector(s)

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 37, 3, 20, dtype=dtype),),
        ({1: LENGTH},),
        lambda s: s.float().cumsum(1),
    )


@fla
def logsumexp() -> PublicKernel:
    """torch's logsumexp, over the pieces of a row, after its kernel; the width is a constexpr."""
    from fla.ops.utils.logsumexp import logsumexp_fwd

    @triton_op("fla::logsumexp", mutates_args={})
    def op(x: Tensor, scale: float) -> Tensor:
        return logsumexp_fwd(x, scale)

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype),),
        ({0: ROWS},),
        lambda x, scale: (x.float() * scale).logsumexp(-1),
        {"scale": 0.5},
    )


@fla
def mean_pooling() -> PublicKernel:
    from fla.ops.utils.pooling import mean_pooling_fwd

    @triton_op("fla::mean_pooling", mutates_args={})
    def op(x: Tensor, chunk: int) -> Tensor:
        return mean_pooling_fwd(x, chunk)

    def reference(x: Tensor, chunk: int) -> Tensor:
        return torch.stack([piece.float().mean(1) for piece in x.split(chunk, 1)], 1).to(x.dtype)

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 37, 3, 20, dtype=dtype),),
        ({0: BATCH, 1: Dim("length", min=9, max=200)},),  # two pieces or more, which torch.export asks for
        reference,
        {"chunk": 8},
        lambda x, chunk: x.new_empty(x.shape[0], (x.shape[1] + chunk - 1) // chunk, *x.shape[2:]),
    )


@fla
def gated_recurrence() -> PublicKernel:
    """A recurrence over the length (HGRN), in one kernel."""
    from fla.ops.hgrn.fused_recurrent import fused_recurrent_hgrn_fwd

    @triton_op("fla::gated_recurrence", mutates_args={})
    def op(x: Tensor, g: Tensor) -> Tensor:
        return fused_recurrent_hgrn_fwd(x, g)[0]

    def reference(x: Tensor, g: Tensor) -> Tensor:
        state, states = torch.zeros_like(x[:, 0], dtype=torch.float32), []
        for t in range(x.shape[1]):
            state = g[:, t].float().exp() * state + x[:, t].float()
            states.append(state.to(x.dtype))
        return torch.stack(states, 1)

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 9, 40, dtype=dtype), -randn(2, 9, 40, dtype=dtype, seed=1).abs()),
        ({0: BATCH, 1: LENGTH}, {0: BATCH, 1: LENGTH}),
        reference,
        fake=lambda x, g: torch.empty_like(x),
    )


@fla
def linear_attention() -> PublicKernel:
    """Simple gated linear attention by pieces: matrix products, three kernels, an autotuned choice in each."""
    from fla.ops.simple_gla.chunk import chunk_simple_gla_fwd
    from fla.ops.utils.cumsum import chunk_local_cumsum_scalar

    @triton_op("fla::linear_attention", mutates_args={})
    def op(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float) -> Tensor:
        sums = chunk_local_cumsum_scalar(g, 64)
        return chunk_simple_gla_fwd(q, k, v, g=sums, scale=scale, chunk_size=64)[0]

    def reference(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float) -> Tensor:
        dtype = v.dtype
        q, k, v, g = (x.float().transpose(1, 2) for x in (q, k, v, g))  # [B, H, T, D]
        decay = g.cumsum(-1)
        decay = (decay[..., None] - decay[..., None, :]).exp().tril()
        return ((q @ k.mT * scale * decay) @ v).transpose(1, 2).to(dtype)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        q, k, v = (randn(1, 70, 2, 32, dtype=dtype, seed=seed) for seed in range(3))
        return q, k, v, -randn(1, 70, 2, dtype=torch.float32, seed=3).abs()

    length = {1: Dim("length", min=1, max=500)}
    return PublicKernel(
        op, inputs, (length,) * 4, reference, {"scale": 32**-0.5}, dtypes=FLOATS_OF_PRODUCTS, tolerance=2e-2
    )


@fla
def attention() -> PublicKernel:
    """Causal attention; block sizes from the device's shared memory and the length."""
    from fla.ops.attn.parallel import parallel_attn_fwd

    @triton_op("fla::attention", mutates_args={})
    def op(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return parallel_attn_fwd(q, k, v, None, None, scale)[0]

    def reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True).transpose(1, 2)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        return randn(1, 37, 4, 32, dtype=dtype), *(randn(1, 37, 2, 32, dtype=dtype, seed=n) for n in (1, 2))

    return PublicKernel(
        op, inputs, ({1: LENGTH},) * 3, reference, {"scale": 32**-0.5}, dtypes=FLOATS_OF_PRODUCTS, tolerance=2e-2
    )
