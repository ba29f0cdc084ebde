"""Of liger-kernel: launchers that compute their block size from the row's width."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import triton_op

from public_kernels.kernel import BATCH, LENGTH, ROWS, WIDTH, PublicKernel, public, randn

liger = public("liger_kernel", "liger-kernel")


def rms_normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


@liger
def rms_norm() -> PublicKernel:
    from liger_kernel.ops.rms_norm import rms_norm_forward

    @triton_op("liger::rms_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm_forward(x, weight, eps, 0.0, "llama", None)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 3, 100, dtype=dtype), randn(100, dtype=dtype, seed=1)),
        ({0: BATCH, 1: LENGTH, 2: WIDTH}, {0: WIDTH}),
        rms_normed,
        {"eps": 1e-5},
    )


@liger
def layer_norm() -> PublicKernel:
    from liger_kernel.ops.layer_norm import layer_norm_forward

    @triton_op("liger::layer_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return layer_norm_forward(x, weight, bias, eps)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), randn(100, dtype=dtype, seed=1), randn(100, dtype=dtype, seed=2)),
        ({0: ROWS, 1: WIDTH}, {0: WIDTH}, {0: WIDTH}),
        lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, weight, bias, eps),
        {"eps": 1e-5},
    )


@liger
def group_norm() -> PublicKernel:
    from liger_kernel.ops.group_norm import group_norm_forward

    @triton_op("liger::group_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        return group_norm_forward(x, x.shape[1], groups, weight, bias, eps)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(2, 8, 33, dtype=dtype), randn(8, dtype=dtype, seed=1), randn(8, dtype=dtype, seed=2)),
        ({0: BATCH, 2: LENGTH}, None, None),
        lambda x, weight, bias, groups, eps: F.group_norm(x, groups, weight, bias, eps),
        {"groups": 4, "eps": 1e-5},
    )


@liger
def swiglu() -> PublicKernel:
    """The width is a constexpr of its own: one width, any number of rows."""
    from liger_kernel.ops.swiglu import swiglu_forward

    @triton_op("liger::swiglu", mutates_args={})
    def op(a: Tensor, b: Tensor) -> Tensor:
        return swiglu_forward(a, b)[2]

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), randn(5, 100, dtype=dtype, seed=1)),
        ({0: ROWS}, {0: ROWS}),
        lambda a, b: F.silu(a.float()).to(a.dtype) * b,
    )


@liger
def geglu() -> PublicKernel:
    from liger_kernel.ops.geglu import geglu_forward

    @triton_op("liger::geglu", mutates_args={})
    def op(a: Tensor, b: Tensor) -> Tensor:
        return geglu_forward(a, b)[2]

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), randn(5, 100, dtype=dtype, seed=1)),
        ({0: ROWS}, {0: ROWS}),
        lambda a, b: F.gelu(a.float(), approximate="tanh").to(a.dtype) * b,
    )


@liger
def rope() -> PublicKernel:
    """Writes into its queries and keys: the op copies them first."""
    from liger_kernel.ops.rope import rope_forward

    @triton_op("liger::rope", mutates_args={})
    def op(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return rope_forward(q.clone(), k.clone(), cos, sin)[:2]

    def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        angles = randn(1, 7, 8, seed=2).repeat(1, 1, 2)
        q, k = randn(2, 4, 7, 16, dtype=dtype), randn(2, 2, 7, 16, dtype=dtype, seed=1)
        return q, k, angles.cos().to(dtype), angles.sin().to(dtype)

    return PublicKernel(
        op,
        inputs,
        ({0: BATCH, 2: LENGTH}, {0: BATCH, 2: LENGTH}, {1: LENGTH}, {1: LENGTH}),
        lambda q, k, cos, sin: (rotated(q, cos, sin), rotated(k, cos, sin)),
    )


@liger
def softmax() -> PublicKernel:
    from liger_kernel.ops.softmax import _softmax_forward

    @triton_op("liger::softmax", mutates_args={})
    def op(x: Tensor) -> Tensor:
        return _softmax_forward(x)[0]

    return PublicKernel(
        op, lambda dtype: (randn(5, 100, dtype=dtype),), ({0: ROWS, 1: WIDTH},), lambda x: x.softmax(-1)
    )


@liger
def sparsemax() -> PublicKernel:
    """Sorts before its kernel."""
    from liger_kernel.ops.sparsemax import _sparsemax_forward

    @triton_op("liger::sparsemax", mutates_args={})
    def op(x: Tensor) -> Tensor:
        return _sparsemax_forward(x, -1)[1]

    def reference(x: Tensor) -> Tensor:
        ordered = x.float().sort(-1, descending=True).values
        ranks = torch.arange(1, x.shape[-1] + 1, device=x.device)
        excess = ordered.cumsum(-1) - 1
        support = (ordered * ranks > excess).sum(-1, keepdim=True)
        return (x - excess.gather(-1, support - 1) / support).clamp(min=0).to(x.dtype)

    return PublicKernel(op, lambda dtype: (randn(5, 20, dtype=dtype),), ({0: ROWS},), reference)


@liger
def dyt() -> PublicKernel:
    """Autotuned, with 18 configurations; the width is a constexpr."""
    from liger_kernel.ops.dyt import liger_dyt_fwd

    @triton_op("liger::dyt", mutates_args={})
    def op(x: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return liger_dyt_fwd(x, alpha, gamma, beta)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        weights = randn(100, dtype=dtype, seed=2), randn(100, dtype=dtype, seed=3)
        return randn(5, 100, dtype=dtype), randn(1, dtype=dtype, seed=1), *weights

    return PublicKernel(
        op,
        inputs,
        ({0: ROWS}, None, None, None),
        lambda x, alpha, gamma, beta: (alpha.float() * x.float()).tanh().mul(gamma).add(beta).to(x.dtype),
    )


@liger
def fused_add_rms_norm() -> PublicKernel:
    from liger_kernel.ops.fused_add_rms_norm import fused_add_rms_norm_forward

    @triton_op("liger::fused_add_rms_norm", mutates_args={})
    def op(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return fused_add_rms_norm_forward(x, residual, weight, eps, 0.0, "llama")[:2]

    return PublicKernel(
        op,
        lambda dtype: (
            randn(5, 100, dtype=dtype),
            randn(5, 100, dtype=dtype, seed=1),
            randn(100, dtype=dtype, seed=2),
        ),
        ({0: ROWS, 1: WIDTH}, {0: ROWS, 1: WIDTH}, {0: WIDTH}),
        lambda x, residual, weight, eps: (rms_normed(x + residual, weight, eps), x + residual),
        {"eps": 1e-6},
    )


@liger
def modulated_rms_norm() -> PublicKernel:
    """An absent shift, and rows that share a scale."""
    from liger_kernel.ops.modulated_rms_norm import modulated_rms_norm_forward

    @triton_op("liger::modulated_rms_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, scale: Tensor, eps: float, shift: Tensor | None = None) -> Tensor:
        return modulated_rms_norm_forward(x, weight, scale, shift, eps, 0.0, "llama")[0]

    return PublicKernel(
        op,
        lambda dtype: (
            randn(2, 7, 100, dtype=dtype),
            randn(100, dtype=dtype, seed=1),
            randn(2, 100, dtype=dtype, seed=2),
        ),
        ({0: BATCH}, None, {0: BATCH}),
        lambda x, weight, scale, eps: rms_normed(x, weight, eps) * (1 + scale[:, None]),
        {"eps": 1e-6},
    )


@liger
def relu_squared() -> PublicKernel:
    from liger_kernel.ops.relu_squared import relu_squared_forward

    @triton_op("liger::relu_squared", mutates_args={})
    def op(x: Tensor) -> Tensor:
        return relu_squared_forward(x)

    return PublicKernel(op, lambda dtype: (randn(5, 100, dtype=dtype),), ({0: ROWS},), lambda x: x.relu().square())


@liger
def poly_norm() -> PublicKernel:
    from liger_kernel.ops.poly_norm import poly_norm_forward

    @triton_op("liger::poly_norm", mutates_args={})
    def op(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return poly_norm_forward(x, weight, bias, eps)[0]

    def reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        powers = [F.rms_norm(x.float() ** n, x.shape[-1:], eps=eps) for n in (3, 2, 1)]
        return (sum(w * p for w, p in zip(weight, powers, strict=True)) + bias).to(x.dtype)

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), randn(3, dtype=dtype, seed=1), randn(1, dtype=dtype, seed=2)),
        ({0: ROWS, 1: WIDTH}, None, None),
        reference,
        {"eps": 1e-6},
        dtypes=(torch.float32,),  # it cubes in the dtype of x
    )


@liger
def kl_div() -> PublicKernel:
    """A sum and a division by the number of rows after its kernel."""
    from liger_kernel.ops.kl_div import kldiv_forward_triton

    @triton_op("liger::kl_div", mutates_args={})
    def op(predicted: Tensor, target: Tensor) -> Tensor:
        return kldiv_forward_triton(predicted, target, False, "batchmean", 1e-10)

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100).log_softmax(-1), randn(5, 100, seed=1).softmax(-1)),
        ({0: ROWS, 1: WIDTH}, {0: ROWS, 1: WIDTH}),
        lambda predicted, target: F.kl_div(predicted, target, reduction="batchmean"),
        dtypes=(torch.float32,),
    )


@liger
def cross_entropy() -> PublicKernel:
    """Counts its targets on the host."""
    from liger_kernel.ops.cross_entropy import cross_entropy_forward

    @triton_op("liger::cross_entropy", mutates_args={})
    def op(logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy_forward(logits.clone(), target, None, -100, 0.0, 0.0, "mean", None, False, False)[0]

    return PublicKernel(
        op,
        lambda dtype: (randn(5, 100, dtype=dtype), torch.arange(5)),
        ({0: ROWS}, {0: ROWS}),
        lambda logits, target: F.cross_entropy(logits, target),
        refusal="_local_scalar_dense",
    )
