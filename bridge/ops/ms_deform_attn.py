"""Multi-scale deformable attention, with sampling locations and attention weights as they are."""

import torch
from torch import Tensor

from bridge.core.op import only_shapes, op, readable, require
from bridge.core.tensors import Floating, Index, LikeFirstOrFloat32

MAX_SAMPLES = 1024
"""Most levels * points: the kernels keep an entry of each in shared memory."""


@op
def ms_deform_attn(
    value: Floating,
    spatial_shapes: Index,
    level_start_index: Index,
    sampling_locations: LikeFirstOrFloat32,
    attention_weights: LikeFirstOrFloat32,
) -> Tensor:
    """Attention to a few sampled points of several feature maps, which lie one after the other in `value`.

    The semantics are those of Deformable DETR's operator: each sample is grid_sample's, bilinear with zeros outside
    the map and align_corners=False, so that location l of a map of width W is pixel l W - 0.5. With N images, S
    positions of all L levels, H heads of D channels, Q queries and P points a level:

    Args:
        value: [N, S, H, D]; float32, float16 or bfloat16 (float64 on CPU).
        spatial_shapes: [L, 2] int32 or int64, (height, width) of each level.
        level_start_index: [L] int32 or int64, the position in `value` where each level begins, row after row.
        sampling_locations: [N, Q, H, L, P, 2], (x, y) from 0 to 1 within a level; the dtype of value, or float32.
        attention_weights: [N, Q, H, L, P]; the dtype of value, or float32.
    Returns:
        [N, Q, H D], dense; coordinates, and the sum over points, are float32 whatever the dtype. A NaN location gives
        NaN.
    Raises:
        OpInputError: shapes or dtypes that do not fit, and on CPU a level that is not within `value`; the message names
            the value. On CUDA and in engines such a level makes the whole result NaN.
    Source: Zhu et al., https://arxiv.org/abs/2010.04159, equation 3.
    """
    name = "ms_deform_attn"
    n, q, channels = check_shapes(
        name, value, spatial_shapes, level_start_index, "attention_weights", attention_weights
    )
    check_same(name, "sampling_locations", sampling_locations, (*attention_weights.shape, 2))
    if only_shapes():
        return value.new_empty(n, q, channels)
    check_levels(name, value, spatial_shapes, level_start_index)
    wide = wide_dtype(value)
    extents = spatial_shapes.to(wide).flip(-1).unsqueeze(1)  # [L, 1, (width, height)]
    pixels = sampling_locations.to(wide) * extents - 0.5
    return attend(value, spatial_shapes, level_start_index, pixels, attention_weights.to(wide))


def wide_dtype(value: Tensor) -> torch.dtype:
    """What coordinates and sums are computed in."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def attend(value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of the samples at `pixels`, [N, Q, H, L, P, (x, y)]; weights: [N, Q, H, L, P]."""
    n, s, heads, head_dim = value.shape
    queries, samples = weights.shape[1], weights.shape[3] * weights.shape[4]
    height, width, start = (t.long().unsqueeze(-1) for t in (*spatial_shapes.unbind(-1), level_start_index))  # [L, 1]
    fits = _within(s, height, width, start)
    x, y = (torch.where(fits, axis, torch.full_like(axis, torch.nan)) for axis in pixels.unbind(-1))
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    known = inside | x.isnan() | y.isnan()
    # Elsewhere any place will do, one that has a finite gradient.
    x, y = (torch.where(known, axis, torch.full_like(axis, -1.0)) for axis in (x, y))
    # One row of zeros, so that there is something to gather where value is empty.
    maps = torch.nn.functional.pad(value.to(weights.dtype).permute(0, 2, 1, 3), (0, 0, 0, 1))  # [N, H, S + 1, D]
    total = None
    for below, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = y.floor() + below, x.floor() + right
        share = (1 - (y - row).abs()) * (1 - (x - column).abs())
        valid = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        place = start + torch.where(valid, row, 0.0).long() * width + torch.where(valid, column, 0.0).long()
        index = torch.where(valid, place, s).permute(0, 2, 1, 3, 4).reshape(n, heads, queries * samples, 1)
        corner = maps.gather(2, index.expand(-1, -1, -1, head_dim)).reshape(n, heads, queries, samples, head_dim)
        share, counts = (
            t.permute(0, 2, 1, 3, 4).reshape(n, heads, queries, samples, 1) for t in (share, valid | ~inside & known)
        )
        # where, not a product with zero: a NaN location must show, and an infinite one must not.
        term = torch.where(counts, share * corner, torch.zeros_like(corner))
        total = term if total is None else total + term
    assert total is not None
    scale = weights.permute(0, 2, 1, 3, 4).reshape(n, heads, queries, samples, 1)
    summed = (total * scale).sum(3)  # [N, H, Q, D]
    return summed.permute(0, 2, 1, 3).reshape(n, queries, heads * head_dim).to(value.dtype)


def _within(positions: int, height: Tensor, width: Tensor, start: Tensor) -> Tensor:
    """Which levels lie within `positions`."""
    most = 2**31 - 1  # as the kernels have it; products of larger numbers would overflow
    fits = (height >= 0) & (width >= 0) & (start >= 0) & (height <= most) & (width <= most) & (start <= positions)
    return fits & (height * width <= positions - start)


def check_levels(name: str, value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor) -> None:
    """Every level must lie within value, where that can be seen: on CPU, not while tracing."""
    if not (readable(spatial_shapes) and readable(level_start_index)):
        return
    height, width, start = (t.long() for t in (*spatial_shapes.unbind(-1), level_start_index))
    fits = _within(value.shape[1], height, width, start).tolist()
    for level, (h, w, first) in enumerate(zip(height.tolist(), width.tolist(), start.tolist(), strict=True)):
        require(
            fits[level],
            f"{name}: level {level} of {h} x {w} from position {first} on is not within the {value.shape[1]} "
            "positions of value; see spatial_shapes and level_start_index",
        )


def check_same(name: str, tensor: str, given: Tensor, expected: tuple[int, ...]) -> None:
    """The shape of one tensor."""
    same = given.dim() == len(expected) and all(a == b for a, b in zip(given.shape, expected, strict=True))
    require(same, f"{name}: {tensor} has shape {tuple(given.shape)}, expected {tuple(expected)}")


def check_shapes(
    name: str, value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, tensor: str, points: Tensor
) -> tuple[int, int, int]:
    """Value, its levels, and `points`, the tensor of that name with a number a point. Returns the result's shape."""
    shape = f"value has shape {tuple(value.shape)}"
    require(value.dim() == 4, f"{name}: {shape}, expected [batch, positions, heads, head_dim]")
    shape = f"{tensor} has shape {tuple(points.shape)}"
    require(points.dim() == 5, f"{name}: {shape}, expected [batch, queries, heads, levels, points]")
    n, positions, heads, head_dim = value.shape
    _, queries, _, levels, each = points.shape
    check_same(name, tensor, points, (n, queries, heads, levels, each))
    check_same(name, "spatial_shapes", spatial_shapes, (levels, 2))
    check_same(name, "level_start_index", level_start_index, (levels,))
    for extent, what in ((n, "images"), (positions, "positions"), (queries, "queries")):
        require(extent < 2**31, f"{name}: there are {extent} {what}, expected fewer than 2^31")
    samples, channels = levels * each, heads * head_dim
    require(
        0 < samples <= MAX_SAMPLES,
        f"{name}: there are {levels} levels of {each} points, expected 1 to {MAX_SAMPLES} in all",
    )
    most = 2**28
    require(channels <= most, f"{name}: value has {channels} channels (heads * head_dim), expected at most {most}")
    elements = positions * channels
    require(elements < 2**31, f"{name}: value has {elements} elements an image, expected fewer than 2^31")
    return n, queries, channels
