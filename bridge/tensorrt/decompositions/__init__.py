"""Which operators are decomposed before conversion, and into what.

A decomposition returns NotImplemented for calls that it does not decompose.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bridge.core.op import OPS
from bridge.tensorrt.converters import cumulative, partial_writes
from bridge.tensorrt.converters.attention import SDPA
from bridge.tensorrt.decompositions import (
    arithmetic,
    counting,
    grouped_products,
    indexing,
    integer_arithmetic,
    ordering,
    pooling,
    recurrent,
    resizing,
    scattering,
    segments,
    shapes,
)
from bridge.tensorrt.decompositions.promotion import promoted

_FLASH_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_FAMILIES = (
    resizing,
    integer_arithmetic,
    shapes,
    arithmetic,
    cumulative,
    indexing,
    partial_writes,
    grouped_products,
    counting,
    scattering,
    segments,
    ordering,
    pooling,
    recurrent,
)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch_tensorrt's table without operators that have a converter or need a GPU, and with bridge's rows."""
    from torch_tensorrt.dynamo.lowering import get_decompositions

    table = dict(get_decompositions())
    table.pop(SDPA, None)
    table |= _of_torch(_FLASH_ON_CPU)  # for programs that are already decomposed
    for op in OPS.values():
        table.pop(op.overload, None)
    return promoted({**_torch_decompositions(table), **table, **_own_decompositions()})


def _torch_decompositions(table: Mapping[Any, Any]) -> dict[Any, Callable[..., Any]]:
    """PyTorch's, for functional operators that torch_tensorrt neither converts nor decomposes."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    converted = DYNAMO_CONVERTERS.keys() | table.keys()
    return {op: decomposition for op, decomposition in _aten_decompositions().items() if op not in converted}


@functools.cache
def _aten_decompositions() -> Mapping[Any, Callable[..., Any]]:
    """PyTorch's own, read once: a thousand operators take as long as the rest of a small model's decomposition."""
    known = dict(torch._decomp.core_aten_decompositions().items()) | _of_torch(torch.ops.aten.addmv)
    return {op: decomposition for op, decomposition in known.items() if op.namespace == "aten"}


@functools.cache
def _of_torch(op: Any) -> dict[Any, Callable[..., Any]]:
    return torch._decomp.get_decompositions([op])


def _own_decompositions() -> dict[Any, Callable[..., Any]]:
    """The rows of the families; a later row for the same operator wins."""
    table = {op: function for family in _FAMILIES for op, function in family.DECOMPOSITIONS.items()}
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):  # if its mixtures of experts are imported
        table[torch.ops.transformers.grouped_mm_fallback.default] = grouped_products.grouped_mm_fallback
    if hasattr(torch.ops.prims, "fma"):  # if torch.compile met an operator that it writes so, such as addcmul_
        table[torch.ops.prims.fma.default] = arithmetic.fused_multiply_add
    return table
