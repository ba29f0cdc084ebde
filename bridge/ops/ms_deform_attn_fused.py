"""Multi-scale deformable attention with what comes before it: locations from offsets, and the softmax."""

from torch import Tensor

from bridge.core.op import only_shapes, op
from bridge.core.tensors import Floating, Index, LikeFirstOrFloat32
from bridge.ops.ms_deform_attn import attend, check_levels, check_same, check_shapes, wide_dtype


@op
def ms_deform_attn_fused(
    value: Floating,
    spatial_shapes: Index,
    level_start_index: Index,
    reference_points: LikeFirstOrFloat32,
    sampling_offsets: LikeFirstOrFloat32,
    attention_logits: LikeFirstOrFloat32,
) -> Tensor:
    """ms_deform_attn of what Deformable DETR's module makes of the outputs of its linear layers, in one launch.

    With a reference point r and an offset o, the sampling location is r + o / (width, height) of the level; with a
    reference box (x, y, width, height), it is (x, y) + o / P * (width, height) / 2. The attention weights are the
    softmax of the logits over all levels and points. Sizes are those of ms_deform_attn:

    Args:
        value: [N, S, H, D]; float32, float16 or bfloat16 (float64 on CPU).
        spatial_shapes: [L, 2] int32 or int64, (height, width) of each level.
        level_start_index: [L] int32 or int64, the position in `value` where each level begins.
        reference_points: [N, Q, L, 2], (x, y) from 0 to 1, or [N, Q, L, 4], boxes around it.
        sampling_offsets: [N, Q, H, L, P, 2], (x, y) in pixels of the level, or in parts of the box.
        attention_logits: [N, Q, H, L, P]. These last three are of the dtype of value, or float32.
    Returns:
        [N, Q, H D], dense; coordinates, softmax and the sum over points are float32 whatever the dtype. A NaN offset
        or reference gives NaN.
    Raises:
        OpInputError: as ms_deform_attn does, which see for levels that are not within `value` too.
    Source: Zhu et al., https://arxiv.org/abs/2010.04159, equation 3 and appendix A.4.
    """
    name = "ms_deform_attn_fused"
    n, q, channels = check_shapes(name, value, spatial_shapes, level_start_index, "attention_logits", attention_logits)
    check_same(name, "sampling_offsets", sampling_offsets, (*attention_logits.shape, 2))
    boxes = reference_points.dim() == 4 and reference_points.shape[3] == 4
    check_same(name, "reference_points", reference_points, (n, q, attention_logits.shape[3], 4 if boxes else 2))
    if only_shapes():
        return value.new_empty(n, q, channels)
    check_levels(name, value, spatial_shapes, level_start_index)
    wide = wide_dtype(value)
    pixels = _pixels(spatial_shapes, reference_points.to(wide), sampling_offsets.to(wide), boxes)
    weights = attention_logits.to(wide).flatten(3).softmax(-1).reshape(attention_logits.shape)
    return attend(value, spatial_shapes, level_start_index, pixels, weights)


def _pixels(spatial_shapes: Tensor, references: Tensor, offsets: Tensor, boxes: bool) -> Tensor:
    """[N, Q, H, L, P, (x, y)]. r W - 0.5 + o, not (r + o / W) W - 0.5: the same, and defined where W is 0."""
    extents = spatial_shapes.to(offsets.dtype).flip(-1).unsqueeze(1)  # [L, 1, (width, height)]
    references = references[:, :, None, :, None]  # [N, Q, 1, L, 1, 2 or 4]
    if boxes:
        parts = offsets / offsets.shape[4] * references[..., 2:] * 0.5
        return (references[..., :2] + parts) * extents - 0.5
    return references * extents - 0.5 + offsets
