"""torch_tensorrt's treatment of attention, for graphs that were traced on a CPU.

PyTorch decomposes scaled_dot_product_attention into an operator of the device. torch_tensorrt knows those of GPUs.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.base.patches import replace_everywhere
from bridge.tensorrt.converters.attention import attention
from bridge.tensorrt.install.flavour import TORCH_TENSORRT

FLASH_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@contextlib.contextmanager
def converting() -> Iterator[None]:
    """The context in which the CPU's operator is converted as the GPU's is, or decomposed for decompose_attention.

    With a mask it stays in PyTorch unless it is decomposed."""
    from torch_tensorrt.dynamo import lowering
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS as table
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import ConverterSupport

    with contextlib.ExitStack() as stack:
        table[FLASH_ON_CPU] = [ConverterSupport(_convert, _fits, supports_dynamic_shapes=True)]
        stack.callback(table.pop, FLASH_ON_CPU)
        replace_everywhere(
            stack, TORCH_TENSORRT, lowering.get_decompositions, _with_flash_on_cpu(lowering.get_decompositions)
        )
        yield


def _with_flash_on_cpu(original: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def get_decompositions(*args: Any, **kwargs: Any) -> dict[Any, Any]:
        table, settings = original(*args, **kwargs), signature.bind(*args, **kwargs).arguments
        if not settings.get("decompose_attention"):
            return table
        # Since 2.14 the setting use_fp32_acc applies to decomposed attention.
        return {**table, FLASH_ON_CPU: _flash_in_float32 if settings.get("use_fp32_acc") else _flash}

    return get_decompositions


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The operator without dropout. Only the gradient needs the second result."""
    grouped = query.shape[1] != key.shape[1]
    result = attention(query, key, value, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=grouped)
    return result, query.new_zeros(query.shape[:-1])


def _flash_in_float32(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The same; scores and sums of float16 tensors are float32."""
    if query.dtype != torch.float16:
        return _flash(query, key, value, *args, **kwargs)
    result, second = _flash(query.float(), key.float(), value.float(), *args, **kwargs)
    return result.to(query.dtype), second


def _fits(node: Node, settings: Any = None) -> bool:
    query, *key_and_value = (tensor.meta["val"].shape for tensor in node.args[:3])  # type: ignore[union-attr]
    equal = all(statically_known_true(a == b) for shape in key_and_value for a, b in zip(query, shape, strict=True))
    return equal and node.kwargs.get("attn_mask") is None


def _convert(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    from torch_tensorrt.dynamo._SourceIR import SourceIR
    from torch_tensorrt.dynamo.conversion import impl

    flash = impl.attention.scaled_dot_product_flash_attention
    output, *_ = flash(ctx, target, SourceIR.ATEN, name, *args, scale=kwargs.get("scale"))
    return output, None
