"""Resizing by a factor that gives no whole extents, such as 7 by 1.7.

PyTorch rounds the extents and keeps the factor for the coordinates. TensorRT's layer takes the quotient of the extents
for the factor (ResizeCoordinateTransformation), and torch_tensorrt asks for that.
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
    """Decompositions, PyTorch's own, of what TensorRT's layer would compute with another factor."""
    operators = [getattr(torch.ops.aten, name).vec for name in _NAMES.split()]
    theirs = torch._decomp.get_decompositions(operators)
    theirs.setdefault(torch.ops.aten.upsample_linear1d.vec, _linear1d)  # torch 2.11 has no such row
    return {op: _unless_whole(op, theirs[op]) for op in operators if op in theirs}


def _linear1d(x: Tensor, output_size: Any, align_corners: bool, scale_factors: Sequence[float]) -> Tensor:
    bilinear = torch.ops.aten.upsample_bilinear2d.vec
    return bilinear(x.unsqueeze(2), output_size, align_corners, [1.0, *scale_factors]).squeeze(2)


def _unless_whole(op: Any, theirs: Callable[..., Any]) -> Callable[..., Any]:
    names = [argument.name for argument in op._schema.arguments]

    def decomposition(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names[1:], args, strict=False)) | kwargs
        factors = given.get("scale_factors")
        if factors is None or given.get("align_corners"):  # whose coordinates follow from the extents
            return NotImplemented
        extents = zip(x.shape[2:], factors, strict=True)
        return NotImplemented if all(_is_whole(*pair) for pair in extents) else theirs(x, *args, **kwargs)

    return decomposition


def _is_whole(extent: Any, factor: float) -> bool:
    """Whether extent * factor is a whole number, for every value that a dynamic extent may have."""
    if float(factor).is_integer():
        return True
    return (isinstance(extent, int) and (extent * factor).is_integer()) or known_equal(extent, 0)


def upsample_linear1d(
    x: Tensor, output_size: Sequence[int] | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> Tensor:
    """As an image of one row, whose size may be dynamic: [N, C, W]."""
    size = None if output_size is None else [1, *output_size]
    scales = None if scale_factors is None else [1.0, *scale_factors]
    return torch.ops.aten.upsample_bilinear2d.vec(x.unsqueeze(2), size, align_corners, scales).squeeze(2)


ROWS: dict[Any, Callable[..., Any]] = {**by_factors(), torch.ops.aten.upsample_linear1d.vec: upsample_linear1d}
