"""acme_norm::gated_rms_norm: an RMS norm whose result a gate scales."""

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from acme_norm.kernels import reciprocal_rms, scale_and_gate


@triton_op("acme_norm::gated_rms_norm", mutates_args={})
def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Normalises the last axis, scales it by a weight, and multiplies by the SiLU of a gate.

        y = x / sqrt(mean(x^2) + eps) * weight * gate * sigmoid(gate)

    Args:
        x: [..., D]; float32, float16 or bfloat16.
        gate: [..., D], shape and dtype of x.
        weight: [D], any of these dtypes.
        eps: is added to the mean.
    Returns:
        [..., D], dense, of the dtype of x; all is computed in float32.
    Raises:
        ValueError: shapes that do not fit.
    Source: the norm of Mamba-2, https://arxiv.org/abs/2405.21060, section 7.1, applied before its gate.
    """
    _check(x, gate, weight)
    x, gate, weight = x.contiguous(), gate.contiguous(), weight.contiguous()
    width, elements = x.shape[-1], x.numel()
    rows = elements // width
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    result = torch.empty_like(x)
    block = min(triton.next_power_of_2(width), 1024)
    wrap_triton(reciprocal_rms)[(rows,)](x, scales, width, eps, BLOCK=block)
    wrap_triton(scale_and_gate)[lambda meta: (triton.cdiv(elements, meta["BLOCK"]),)](
        x, gate, weight, scales, result, elements, width
    )
    return result


@gated_rms_norm.register_kernel("cpu")
def reference(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """The same in plain torch; what runs on a CPU."""
    _check(x, gate, weight)
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = F.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps)
    return (normed * F.silu(gate.to(wide))).to(x.dtype).contiguous()


def _check(x: Tensor, gate: Tensor, weight: Tensor) -> None:
    if x.dim() == 0 or gate.shape != x.shape or weight.shape != x.shape[-1:]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (x, gate, weight))
        raise ValueError(
            f"gated_rms_norm: x, gate and weight have shapes {shapes}, expected [..., D], [..., D] and [D]"
        )
