"""Resizing by a factor that gives fractional extents, such as 7 by 1.7.

PyTorch rounds the extents, but keeps the factor for the coordinates. torch_tensorrt makes TensorRT's layer use the
quotient of the extents (ResizeCoordinateTransformation). PyTorch's own decompositions for the nearest pixel divide a
dynamic extent by its product with the factor, which rounds to another pixel in float32.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.decompositions.bounds import known_equal

_INTERPOLATING = "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"
_NEAREST = "upsample_nearest1d upsample_nearest2d upsample_nearest3d"
_NEAREST_CENTRE = "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d"


def by_factors() -> dict[Any, Callable[..., Any]]:
    """Decompositions for calls that TensorRT's layer would compute with another factor."""
    operators = _overloads(_INTERPOLATING)
    of_torch = torch._decomp.get_decompositions(operators)
    of_torch.setdefault(torch.ops.aten.upsample_linear1d.vec, _linear1d)  # missing in torch 2.11
    table = {op: of_torch[op] for op in operators if op in of_torch}
    table |= dict.fromkeys(_overloads(_NEAREST), functools.partial(_nearest, shift=0.0))
    return {op: _unless_whole(op, decomposition) for op, decomposition in table.items()}


def _nearest_centres() -> dict[Any, Callable[..., Any]]:
    """Those of operators that have no converter, whose other calls are decomposed as PyTorch does."""
    of_torch = torch._decomp.get_decompositions(_overloads(_NEAREST_CENTRE))
    nearest = functools.partial(_nearest, shift=0.5)
    return {op: _unless_whole(op, nearest, otherwise) for op, otherwise in of_torch.items()}


def _overloads(names: str) -> list[Any]:
    return [getattr(torch.ops.aten, name).vec for name in names.split()]


def _nearest(x: Tensor, output_size: Any, scale_factors: Sequence[float], *, shift: float) -> Tensor:
    """Element floor((i + shift) / factor) for each place i of an axis."""
    for axis, factor in enumerate(scale_factors, -len(scale_factors)):
        extent = x.shape[axis]
        out: Any = torch.sym_int(torch.sym_float(extent) * factor)
        places = (torch.arange(out, dtype=torch.float32, device=x.device) + shift) * (1 / factor)
        x = x.index_select(axis, places.to(torch.int64).clamp(max=extent - 1))
    return x


def _linear1d(x: Tensor, output_size: Any, align_corners: bool, scale_factors: Sequence[float]) -> Tensor:
    bilinear = torch.ops.aten.upsample_bilinear2d.vec
    return bilinear(x.unsqueeze(2), output_size, align_corners, [1.0, *scale_factors]).squeeze(2)


def _unless_whole(
    op: Any, decompose: Callable[..., Any], otherwise: Callable[..., Any] = lambda *args, **kwargs: NotImplemented
) -> Callable[..., Any]:
    """Takes calls with factors that give fractional extents; others do `otherwise`."""
    names = [argument.name for argument in op._schema.arguments]

    def decomposition(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names[1:], args, strict=False)) | kwargs
        factors = given.get("scale_factors")
        if factors is None or given.get("align_corners"):  # then coordinates follow from the extents
            return otherwise(x, *args, **kwargs)
        whole = all(is_whole(*pair) for pair in zip(x.shape[2:], factors, strict=True))
        return (otherwise if whole else decompose)(x, *args, **kwargs)

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
    **_nearest_centres(),
    torch.ops.aten.upsample_linear1d.vec: upsample_linear1d,
}
