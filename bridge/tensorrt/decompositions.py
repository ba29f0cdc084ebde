"""Which operators are taken apart before conversion, and into what."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bridge.op import OPS
from bridge.tensorrt.attention import SDPA

_FLASH_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default


def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch_tensorrt's table, less what would take apart an operator that has a converter or needs a GPU."""
    from torch_tensorrt.dynamo.lowering import get_decompositions

    table = dict(get_decompositions())
    table.pop(SDPA, None)
    table |= torch._decomp.get_decompositions([_FLASH_ON_CPU])  # in programs that were decomposed before they came here
    for name in ("empty_permuted", "empty_strided"):  # torch_tensorrt's put their result on a GPU
        table.pop(getattr(torch.ops.aten, name).default, None)
    for op in OPS.values():
        table.pop(op.overload, None)
    return table | {_BATCH_NORM: batch_norm}


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in eval mode: x [N, C, ...] times a scale plus a shift, and two empty tensors.

    Scale and shift are computed in float32 and rounded once, as PyTorch does on a GPU; torch_tensorrt's converter
    computes them in the dtype of x. They are constants, so nothing of this is left in the engine.
    """
    scale = (variance.float() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.float()
    shift = -mean.float() * scale
    if bias is not None:
        shift = shift + bias.float()
    shape = [-1] + [1] * (x.dim() - 2)
    empty = x.new_zeros(0)
    return x * scale.to(x.dtype).reshape(shape) + shift.to(x.dtype).reshape(shape), empty, empty
