"""What tensors an op takes: said once, in the annotations of its reference, and checked once, before anything runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_args

import torch
from torch import Tensor

from bridge.errors import OpInputError

MAX_RANK = 8
"""Most dimensions of a tensor: TensorRT's, and csrc/core/dim.h's kMaxRank."""

_FLOATING = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class DTypes:
    """The dtypes of a tensor parameter. like_first: that of the op's first tensor too. float64 goes wherever float32
    does: references take it on a CPU, and no kernel does."""

    names: tuple[torch.dtype, ...]
    like_first: bool = False

    def of(self, first: torch.dtype) -> tuple[torch.dtype, ...]:
        """All of them, where the op's first tensor has dtype `first`."""
        wide = (torch.float64,) if torch.float32 in self.names and not self.like_first else ()
        own = (first,) if self.like_first else ()
        return tuple(dict.fromkeys((*own, *self.names, *wide)))


Floating: TypeAlias = Annotated[Tensor, DTypes(_FLOATING)]
"""A floating-point tensor."""
Index: TypeAlias = Annotated[Tensor, DTypes((torch.int32, torch.int64))]
"""A tensor of integers."""
Bytes: TypeAlias = Annotated[Tensor, DTypes((torch.uint8, torch.int8))]
"""A tensor of bytes: uint8, or int8 that holds the same bits, as a TensorRT plugin gets them."""
Mask: TypeAlias = Annotated[Tensor, DTypes((torch.int32, torch.bool))]
"""A tensor of truth values; of integers, all but 0 are true."""
LikeFirst: TypeAlias = Annotated[Tensor, DTypes((), like_first=True)]
"""A tensor of the dtype of the op's first one."""
LikeFirstOrFloat32: TypeAlias = Annotated[Tensor, DTypes((torch.float32,), like_first=True)]
"""The same, or float32."""

# What a parameter takes that says nothing: what both PyTorch's kernels and an engine can hold.
ANY = DTypes((*_FLOATING, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool))

# Backends of tensors that have no strides: kernels see pointers. Each refuses, for torch would say that "the operator
# doesn't exist for this backend".
REFUSED_KEYS = (
    *("SparseCPU", "SparseCUDA", "SparseMeta", "SparseCsrCPU", "SparseCsrCUDA", "SparseCsrMeta"),
    *("NestedTensorCPU", "NestedTensorCUDA", "NestedTensorMeta", "QuantizedCPU", "QuantizedCUDA", "MkldnnCPU"),
)


def dtypes_of(hint: Any) -> DTypes:
    """What the annotation of a tensor parameter says: `Floating`, `Tensor`, `Index | None` …"""
    return next(_marks(hint), ANY)


def _marks(hint: Any) -> Iterator[DTypes]:
    for item in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        if isinstance(item, DTypes):
            yield item
        elif item is not hint:
            yield from _marks(item)


def check_tensors(op: str, names: Sequence[str], rules: Sequence[DTypes], tensors: Sequence[Any]) -> None:
    """The tensors of a call, None where an optional one is absent, against what the op takes.

    Raises:
        OpInputError: one is no tensor, has no strides (sparse, nested, quantized), too many dimensions, or a dtype that
            the op does not take; the message names those that it does.
    """
    for name, rule, tensor in zip(names, rules, tensors, strict=True):
        if tensor is None:
            continue
        what = f"{op}: {name}"
        if not isinstance(tensor, Tensor):
            raise OpInputError(f"{what} is {tensor!r}, expected a tensor")
        if (reason := refusal(tensor)) is not None:
            raise OpInputError(f"{what} {reason}")
        allowed = rule.of(tensors[0].dtype)
        if tensor.is_cuda:
            allowed = tuple(dtype for dtype in allowed if dtype != torch.float64) or _FLOATING
        if tensor.dtype not in allowed:
            raise OpInputError(f"{what} is {tensor.dtype}, expected {_dtypes_text(allowed)}")


def refusal(tensor: Tensor) -> str | None:
    """Why neither a kernel nor an engine takes a tensor, whatever its dtype: "is a nested tensor, …"; or None."""
    if tensor.is_nested:
        return "is a nested tensor, expected a dense one; see torch.nested.to_padded_tensor"
    if tensor.is_quantized or tensor.layout is not torch.strided:
        form = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        way = "dequantize" if tensor.is_quantized else "to_dense"
        return f"is a {form} tensor, expected a dense one; call {way}() on it"
    if tensor.dim() > MAX_RANK:
        return f"has {tensor.dim()} dimensions, {tuple(tensor.shape)}, expected at most {MAX_RANK}"
    return None


def _dtypes_text(dtypes: Sequence[torch.dtype]) -> str:
    *most, last = [str(dtype) for dtype in dtypes]
    return f"{', '.join(most)} or {last}" if most else last
