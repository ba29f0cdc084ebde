"""Of mlstm_kernels (xLSTM): a step of a recurrence and its parallel form; dtypes are constexprs."""

import torch
from torch import Tensor
from torch.export import Dim
from torch.library import triton_op

from public_kernels.kernel import BATCH, PublicKernel, public, randn

mlstm = public("mlstm_kernels", "mlstm_kernels")


def gates(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The logarithms of an input gate and of a forget gate."""
    return randn(*shape, dtype=dtype, seed=3), randn(*shape, dtype=dtype, seed=4) + 2


@mlstm
def step() -> PublicKernel:
    """One token of generation: four outputs, states in float32."""
    from mlstm_kernels.torch.recurrent.triton_step import mlstm_recurrent_step__triton

    @triton_op("mlstm::step", mutates_args={})
    def op(
        q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor, n: Tensor, m: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, states = mlstm_recurrent_step__triton(q, k, v, i, f, c, n, m, eps)
        return h, *states

    def reference(
        q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor, n: Tensor, m: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        dtype = v.dtype
        q, k, v, i, f = (x.float() for x in (q, k, v, i, f))
        forget = torch.nn.functional.logsigmoid(f) + m
        most = torch.maximum(forget, i)
        old, new = (forget - most).exp(), (i - most).exp()
        c = old[..., None] * c + new[..., None] * k[..., None] * v[..., None, :]
        n = old * n + new * k
        q = q * q.shape[-1] ** -0.5
        h = (q[..., None, :] @ c).squeeze(-2)
        norm = torch.maximum((q * n).sum(-1, keepdim=True).abs(), (-most).exp()) + eps
        return (h / norm).to(dtype), c, n, most

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        q, k, v = (randn(2, 3, 64, dtype=dtype, seed=seed) for seed in range(3))
        states = randn(2, 3, 64, 64, seed=5), randn(2, 3, 64, seed=6), randn(2, 3, 1, seed=7)
        return q, k, v, *gates((2, 3, 1), dtype), *states

    return PublicKernel(op, inputs, ({0: BATCH},) * 8, reference, {"eps": 1e-6}, tolerance=1e-3)


@mlstm
def chunkwise() -> PublicKernel:
    """The whole sequence, in two kernels with matrix products and a temporary of states between them.

    The batch is a constexpr of both.
    """
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk.fw import mlstm_chunkwise_fw

    @triton_op("mlstm::chunkwise", mutates_args={})
    def op(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        return mlstm_chunkwise_fw(q, k, v, i, f, chunk_size=64, eps=1e-6)[0]

    def reference(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        dtype = v.dtype
        q, k, v, i, f = (x.float() for x in (q, k, v, i, f))
        forget = torch.nn.functional.logsigmoid(f).cumsum(-1)
        logs = forget[..., None] - forget[..., None, :] + i[..., None, :]
        causal = torch.ones(logs.shape[-2:], device=q.device).tril().bool()
        logs = logs.masked_fill(~causal, -torch.inf)
        most = logs.amax(-1, keepdim=True)
        scores = q @ k.mT * q.shape[-1] ** -0.5 * (logs - most).exp()
        norm = torch.maximum(scores.sum(-1, keepdim=True).abs(), (-most).exp()) + 1e-6
        return (scores @ v / norm).to(dtype)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        q, k, v = (randn(2, 2, 128, 64, dtype=dtype, seed=seed) for seed in range(3))
        return q, k, v, *gates((2, 2, 128), torch.float32)

    return PublicKernel(
        op,
        inputs,
        ({0: Dim("batch", min=1, max=2)},) * 5,
        reference,
        dtypes=(torch.float16, torch.bfloat16),
        tolerance=2e-2,
    )
