"""The element types of an engine: one row each, with its names in torch, TensorRT, ONNX and Triton Inference Server."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch


@dataclass(frozen=True)
class DType:
    """`name` is torch's; `trt` a member of trt.DataType, `onnx` of onnx.TensorProto.DataType; `triton` the server's."""

    name: str
    trt: str
    onnx: str
    triton: str

    @property
    def torch(self) -> torch.dtype:
        """The torch dtype."""
        return getattr(torch, self.name)

    def of(self, trt: ModuleType) -> Any:
        """The member of trt.DataType."""
        return getattr(trt.DataType, self.trt)

    def like(self, other: Any) -> Any:
        """The member of trt.DataType, given another member of it."""
        return getattr(type(other), self.trt)


DTYPES = (
    DType("float32", "FLOAT", "FLOAT", "FP32"),
    DType("float16", "HALF", "FLOAT16", "FP16"),
    DType("bfloat16", "BF16", "BFLOAT16", "BF16"),
    DType("int64", "INT64", "INT64", "INT64"),
    DType("int32", "INT32", "INT32", "INT32"),
    DType("int8", "INT8", "INT8", "INT8"),
    DType("uint8", "UINT8", "UINT8", "UINT8"),
    DType("bool", "BOOL", "BOOL", "BOOL"),
)
_BY_NAME = {row.name: row for row in DTYPES}
_BY_TORCH = {row.torch: row for row in DTYPES}
_BY_TRT = {row.trt: row for row in DTYPES}


def named(name: str) -> DType:
    """The row of a torch name such as "float16". KeyError: there is none."""
    return _BY_NAME[name]


def from_torch(dtype: torch.dtype) -> DType | None:
    """The row of a torch dtype; None where engines have no such dtype (float64, complex64, int16), see `absence`."""
    return _BY_TORCH.get(dtype)


# TensorRT has these, but bridge does not convert them: a model's scales would have to become quantization layers.
_UNCONVERTED = ("float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn_x2", "int4")


def absence(dtype: torch.dtype) -> str:
    """Why `from_torch` has no row for a dtype, as part of a message: "which TensorRT lacks"."""
    return f"which {'bridge does not convert' if str(dtype)[6:] in _UNCONVERTED else 'TensorRT lacks'}"


def from_trt(dtype: Any) -> DType | None:
    """The row of a member of trt.DataType; None where torch has no such dtype."""
    return _BY_TRT.get(dtype.name)
