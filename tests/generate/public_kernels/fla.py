"""Of fla-core (flash-linear-attention), its layers: autotuned kernels, heuristics, choices by the call's size."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import triton_op

from public_kernels.kernel import BATCH, LENGTH, ROWS, PublicKernel, public, randn

fla = public("fla", "fla-core")  # which needs einops, too
FLOATS_OF_PRODUCTS = (torch.float16, torch.bfloat16)  # float32 products round to TF32


@fla
def l2norm() -> PublicKernel:
    """One of two kernels, by the width; an Autotuner of a class of its own."""
    from fla.modules.norm.l2norm import l2norm_fwd

    @triton_op("fla::l2norm", mutates_args={})
    def op(x: Tensor, eps: float) -> Tensor:
        return l2norm_fwd(x, eps)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 5, 100, dtype=dtype),),
        ({0: BATCH, 1: LENGTH},),
        lambda x, eps: (x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + eps)).to(x.dtype),
        {"eps": 1e-6},
    )


@fla
def layer_norm() -> PublicKernel:
    from fla.modules.norm.layernorm import layer_norm_fwd

    @triton_op("fla::layer_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, _, _, sums = layer_norm_fwd(x, weight, bias, eps, residual)
        return y, sums

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        rows, weights = (
            [randn(5, 100, dtype=dtype, seed=n) for n in (0, 1)],
            [randn(100, dtype=dtype, seed=n) for n in (2, 3)],
        )
        return rows[0], *weights, rows[1]

    def reference(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        sums = x.float() + residual.float()
        return F.layer_norm(sums, weight.shape, weight.float(), bias.float(), eps).to(x.dtype), sums.to(x.dtype)

    return PublicKernel(op, inputs, ({0: ROWS}, None, None, {0: ROWS}), reference, {"eps": 1e-5})


@fla
def rms_norm_gated() -> PublicKernel:
    """Heuristics around an autotuned kernel, with absent tensors."""
    from fla.modules.norm.fused_norm_gate import layer_norm_gated_fwd

    @triton_op("fla::rms_norm_gated", mutates_args={})
    def op(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        return layer_norm_gated_fwd(x, gate, weight, None, "swish", eps, is_rms_norm=True)[0]

    def reference(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        return (F.rms_norm(x.float(), weight.shape, weight.float(), eps) * F.silu(gate.float())).to(x.dtype)

    return PublicKernel(
        op,
        lambda dtype: (
            randn(5, 100, dtype=dtype),
            randn(5, 100, dtype=dtype, seed=1),
            randn(100, dtype=dtype, seed=2),
        ),
        ({0: ROWS}, {0: ROWS}, None),
        reference,
        {"eps": 1e-5},
    )


@fla
def group_norm_gated() -> PublicKernel:
    """Heuristics alone, and a warp count that the launcher computes."""
    from fla.modules.norm.layernorm_gated import layer_norm_fwd

    @triton_op("fla::group_norm_gated", mutates_args={})
    def op(x: Tensor, weight: Tensor, gate: Tensor, groups: int, eps: float) -> Tensor:
        return layer_norm_fwd(x, weight, None, eps, gate, group_size=x.shape[1] // groups, is_rms_norm=True)[0]

    def reference(x: Tensor, weight: Tensor, gate: Tensor, groups: int, eps: float) -> Tensor:
        y = x.float().unflatten(1, (groups, -1))
        y = F.rms_norm(y, y.shape[-1:], eps=eps).flatten(1)
        return (y * weight * F.silu(gate.float())).to(x.dtype)

    return PublicKernel(
        op,
        lambda dtype: (
            randn(5, 96, dtype=dtype),
            randn(96, dtype=dtype, seed=1),
            randn(5, 96, dtype=dtype, seed=2),
        ),
        ({0: ROWS}, None, {0: ROWS}),
        reference,
        {"groups": 4, "eps": 1e-5},
    )


@fla
def swiglu() -> PublicKernel:
    """Autotuned, with 30 configurations."""
    from fla.modules.activations.ops import swiglu_fwd

    @triton_op("fla::swiglu", mutates_args={})
    def op(x: Tensor, y: Tensor) -> Tensor:
        return swiglu_fwd(x, y)

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 5, 100, dtype=dtype), randn(2, 5, 100, dtype=dtype, seed=1)),
        ({0: BATCH, 1: LENGTH}, {0: BATCH, 1: LENGTH}),
        lambda x, y: (F.silu(x.float()) * y.float()).to(x.dtype),
    )


@fla
def rotary() -> PublicKernel:
    """Asks for the number of multiprocessors; zeros and a copy before its kernel; the batch is a constexpr."""
    from fla.modules.rotary.ops import rotary_embedding_fwdbwd

    @triton_op("fla::rotary", mutates_args={})
    def op(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotary_embedding_fwdbwd(x, cos, sin)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        angles = randn(256, 8, seed=1)
        return randn(2, 7, 3, 24, dtype=dtype), angles.cos().to(dtype), angles.sin().to(dtype)

    def reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        (first, second), rest = x[..., :16].float().chunk(2, -1), x[..., 16:]
        c, s = cos[: x.shape[1], None].float(), sin[: x.shape[1], None].float()
        return torch.cat(((first * c - second * s).to(x.dtype), (first * s + second * c).to(x.dtype), rest), -1)

    return PublicKernel(op, inputs, ({1: LENGTH}, None, None), reference)


@fla
def short_convolution() -> PublicKernel:
    """Heuristics, configurations, and strides as arguments."""
    from fla.modules.causal_conv1d.ops import causal_conv1d_fwd

    @triton_op("fla::short_convolution", mutates_args={})
    def op(x: Tensor, weight: Tensor) -> Tensor:
        return causal_conv1d_fwd(x, weight, None, None, activation="silu")[0]

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        padded = F.pad(x.float().transpose(1, 2), (weight.shape[1] - 1, 0))
        return F.silu(F.conv1d(padded, weight.float()[:, None], groups=x.shape[2])).transpose(1, 2).to(x.dtype)

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 9, 40, dtype=dtype), randn(40, 4, dtype=dtype, seed=1)),
        ({0: BATCH, 1: LENGTH}, None),
        reference,
    )


@fla
def token_shift() -> PublicKernel:
    """Another constexpr for a length of 1."""
    from fla.modules.token_shift import token_shift_fwd

    @triton_op("fla::token_shift", mutates_args={})
    def op(x: Tensor) -> Tensor:
        return token_shift_fwd(x)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 9, 40, dtype=dtype),),
        ({0: BATCH, 1: LENGTH},),
        lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1] - x,
    )
