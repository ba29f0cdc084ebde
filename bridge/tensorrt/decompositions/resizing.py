"""Resizing by a factor that gives fractional extents, such as 7 by 1.7.

PyTorch rounds the extents, but keeps the factor for the coordinates. torch_tensorrt makes TensorRT's layer use the
quotient of the extents (ResizeCoordinateTransformation).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.bounds import known_equal

_NAMES = (
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d"
    " upsample_trilinear3d upsample_bicubic2d"
)


def by_factors() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions, for calls that TensorRT's layer would compute with another factor."""
    operators = [getattr(torch.ops.aten, name).vec for name in _NAMES.split()]
    of_torch = torch._decomp.get_decompositions(operators)
    of_torch.setdefault(torch.ops.aten.upsample_linear1d.vec, _linear1d)  # missing in torch 2.11
    return {op: _unless_whole(op, of_torch[op]) for op in operators if op in of_torch}


def _linear1d(x: Tensor, output_size: Any, align_corners: bool, scale_factors: Sequence[float]) -> Tensor:
    bilinear = torch.ops.aten.upsample_bilinear2d.vec
    return bilinear(x.unsqueeze(2), output_size, align_corners, [1.0, *scale_factors]).squeeze(2)


def _unless_whole(op: Any, of_torch: Callable[..., Any]) -> Callable[..., Any]:
    names = [argument.name for argument in op._schema.arguments]

    def decomposition(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names[1:], args, strict=False)) | kwargs
        factors = given.get("scale_factors")
        if factors is None or given.get("align_corners"):  # then coordinates follow from the extents
            return NotImplemented
        extents = zip(x.shape[2:], factors, strict=True)
        return NotImplemented if all(is_whole(*pair) for pair in extents) else of_torch(x, *args, **kwargs)

    return decomposition


def is_whole(extent: Any, factor: float) -> bool:
    """Whether extent * factor is an integer for every value of a dynamic extent."""
    if float(factor).is_integer():
        return True
    return (isinstance(extent, int) and (extent * factor).is_integer()) or known_equal(extent, 0)


def upsample_linear1d(
    x: Tensor, output_size: Sequence[int] | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> Tensor:
    """x [N, C, W] resized as an image of one row, whose size may be dynamic."""
    size = None if output_size is None else [1, *output_size]
    scales = None if scale_factors is None else [1.0, *scale_factors]
    return torch.ops.aten.upsample_bilinear2d.vec(x.unsqueeze(2), size, align_corners, scales).squeeze(2)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    **by_factors(),
    torch.ops.aten.upsample_linear1d.vec: upsample_linear1d,
}
