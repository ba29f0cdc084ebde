"""How far TensorRT may be off where it rounds the factors of float32 products to TF32, as a GPU's convolutions do too.

TF32 has 10 bits of mantissa: a sum of products is off by up to 2^-10 of the sum of their magnitudes. Versions of
TensorRT-RTX round though the setting forbids it, and bridge adds at indices by products.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_RELATIVE = 2.0**-10
_SURE = 2  # factors that are cut off, not rounded, are off by twice as much
_PRODUCTS = ["mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "mv", "dot", "vdot", "convolution", "linear"]
_SUMS_AT_INDICES = ["scatter_add", "scatter_reduce", "scatter", "index_add", "index_reduce", "index_put", "put"]
_ROUNDED = {getattr(torch.ops.aten, name) for name in (*_PRODUCTS, *_SUMS_AT_INDICES)}


def tf32_errors(model: torch.nn.Module, inputs: Sequence[Tensor], expected: Any) -> list[float]:
    """Of each leaf of a model's result: how far rounded products may take it from what is expected."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Rounded() as rounded:  # attention as products
        result = model(*(tensor.clone() for tensor in inputs))
    leaves = zip(pytree.tree_leaves(result), pytree.tree_leaves(expected), strict=True)
    return [_largest(*pair) if rounded.any else 0.0 for pair in leaves]


class _Rounded(TorchDispatchMode):
    """Moves results of float32 products by the most that their rounding may."""

    any = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket not in _ROUNDED or result.dtype != torch.float32:
            return result
        self.any = True
        args, kwargs = pytree.tree_map(_magnitude, (args, kwargs or {}))
        return result + _RELATIVE * func(*args, **kwargs)


def _magnitude(leaf: Any) -> Any:
    numeric = isinstance(leaf, float) or (isinstance(leaf, Tensor) and leaf.is_floating_point())
    return abs(leaf) if numeric else leaf


def _largest(rounded: Any, expected: Any) -> float:
    if not isinstance(expected, Tensor) or not expected.is_floating_point() or not expected.numel():
        return 0.0
    return _SURE * float((rounded.double() - expected.double()).abs().nan_to_num(0, 0).max())
