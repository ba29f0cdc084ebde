"""What deformable attention's locations and weights are made of: the pass takes the fused op where it is just that."""

import pytest
import torch
from attention_over_levels import BATCH, HEAD_DIM, HEADS, LEVELS, POINTS, QUERIES, deformable_detr
from rope_programs import check_same, export

from bridge.passes import rewrite

FUSED, PLAIN = torch.ops.bridge.ms_deform_attn_fused.default, torch.ops.bridge.ms_deform_attn.default
SHAPES = torch.tensor(LEVELS)
SAMPLES = len(LEVELS) * POINTS


def arguments(batch=2, queries=6, coordinates=2, levels=3):
    """value [N, S, H D], references [N, Q, L or 1, 2 or 4], offsets [N, Q, 2 H L P] and logits [N, Q, H L P]."""
    generator = torch.Generator().manual_seed(batch + queries)
    positions = sum(height * width for height, width in LEVELS)
    value = torch.randn(batch, positions, HEADS * HEAD_DIM, generator=generator)
    references = torch.rand(batch, queries, levels, coordinates, generator=generator)
    offsets = torch.randn(batch, queries, HEADS * SAMPLES * 2, generator=generator)
    logits = torch.randn(batch, queries, HEADS * SAMPLES, generator=generator)
    return value, references, offsets, logits


QUERY = {0: BATCH, 1: QUERIES}
DYNAMIC = ({0: BATCH}, QUERY, QUERY, QUERY)


def heads_of(offsets, logits):
    n, queries = logits.shape[:2]
    return offsets.view(n, queries, HEADS, len(LEVELS), POINTS, 2), logits.view(n, queries, HEADS, SAMPLES)


def by_points(value, references, offsets, logits):
    """Deformable DETR's own."""
    offsets, logits = heads_of(offsets, logits)
    normalizer = torch.stack([SHAPES[..., 1], SHAPES[..., 0]], -1)
    locations = references[:, :, None, :, None, :] + offsets / normalizer[None, None, None, :, None, :]
    return deformable_detr(value, locations, logits)


def by_boxes(value, references, offsets, logits):
    offsets, logits = heads_of(offsets, logits)
    sizes = references[:, :, None, :, None, 2:]
    return deformable_detr(value, references[:, :, None, :, None, :2] + offsets / POINTS * sizes * 0.5, logits)


def of_all_levels(value, references, offsets, logits):
    """RT-DETR v2's: levels and points in one dimension, boxes that all levels share, scales in a tensor."""
    offsets, logits = heads_of(offsets, logits)
    scales = torch.tensor([1 / POINTS] * SAMPLES).unsqueeze(-1)
    shift = offsets.flatten(3, 4) * scales * references[:, :, None, :, 2:] * 0.5
    locations = references[:, :, None, :, :2] + shift
    return deformable_detr(value, locations.unflatten(3, (len(LEVELS), POINTS)), logits)


def reciprocal(value, references, offsets, logits):
    offsets, logits = heads_of(offsets, logits)
    locations = (1.0 / SHAPES.flip(1).float())[:, None] * offsets + references.unsqueeze(3).unsqueeze(2)
    return deformable_detr(value, locations, logits)


def targets(program):
    return [node.target for node in program.graph.nodes if node.target in (FUSED, PLAIN)]


@pytest.mark.parametrize(
    ("write", "coordinates", "levels"),
    [
        (by_points, 2, 3),
        (by_points, 2, 1),
        (by_boxes, 4, 3),
        (by_boxes, 4, 1),
        (of_all_levels, 4, 1),
        (reciprocal, 2, 3),
    ],
)
def test_fused(write, coordinates, levels):
    given = arguments(coordinates=coordinates, levels=levels)
    dynamic = write is by_points and levels > 1
    found, (outcome,) = rewrite(export(write, given, DYNAMIC if dynamic else None), ["ms_deform_attn"])
    assert targets(found) == [FUSED] and "ms_deform_attn_fused" in outcome.what
    assert not [node for node in found.graph.nodes if "softmax" in str(node.target)]
    check_same(found, write, arguments(*((3, 9) if dynamic else (2, 6)), coordinates, levels))


# What is nearly that: the locations stay, and the plain op takes them.


def _points(change):
    def write(value, references, offsets, logits):
        offsets, logits = heads_of(offsets, logits)
        return deformable_detr(value, change(references[:, :, None, :, None, :], offsets), logits)

    return write


def _boxes(change):
    def write(value, references, offsets, logits):
        offsets, logits = heads_of(offsets, logits)
        points, sizes = references[:, :, None, :, None, :2], references[:, :, None, :, None, 2:]
        return deformable_detr(value, change(points, sizes, offsets), logits)

    return write


OTHERS = [
    (_points(lambda points, offsets: points + offsets / SHAPES[:, None]), 2),  # height for width
    (_points(lambda points, offsets: points + offsets / SHAPES.flip(0, 1)[:, None]), 2),  # other levels
    (_points(lambda points, offsets: points - offsets / SHAPES.flip(1)[:, None]), 2),
    (_points(lambda points, offsets: points + offsets / SHAPES.flip(1)[:, None] * 1.01), 2),
    (_points(lambda points, offsets: points.flip(-1) + offsets / SHAPES.flip(1)[:, None]), 2),
    (_points(lambda points, offsets: points + offsets / offsets.sum()), 2),
    (_points(lambda points, offsets: points + offsets.sin() * offsets / SHAPES.flip(1)[:, None]), 2),
    (_boxes(lambda points, sizes, offsets: points + offsets / POINTS * sizes), 4),
    (_boxes(lambda points, sizes, offsets: points + offsets / POINTS * points * 0.5), 4),
    (_boxes(lambda points, sizes, offsets: sizes + offsets / POINTS * sizes * 0.5), 4),
    (_boxes(lambda points, sizes, offsets: points + offsets / POINTS / sizes * 0.5), 4),
    (_boxes(lambda points, sizes, offsets: points + offsets / SHAPES.flip(1)[:, None]), 4),
]


@pytest.mark.parametrize(("write", "coordinates"), OTHERS)
def test_others_are_not_fused(write, coordinates):
    given = arguments(coordinates=coordinates)
    found, (outcome,) = rewrite(export(write, given), ["ms_deform_attn"])
    assert targets(found) == [PLAIN] and outcome.replaced
    check_same(found, write, arguments(coordinates=coordinates))


@pytest.mark.parametrize(
    "normalize",
    [
        lambda logits: logits.unflatten(-1, (-1, POINTS)).softmax(-1).flatten(3),  # over each level
        lambda logits: logits.softmax(-2),
        lambda logits: logits.sigmoid(),
        lambda logits: logits.softmax(-1).flip(-1),
    ],
)
def test_other_weights_are_not_fused(normalize):
    def write(value, references, offsets, logits):
        offsets, logits = heads_of(offsets, logits)
        locations = references[:, :, None, :, None, :] + offsets / SHAPES.flip(1)[:, None]
        return deformable_detr(value, locations, logits, normalize=normalize)

    found, _ = rewrite(export(write, arguments()), ["ms_deform_attn"])
    assert targets(found) == [PLAIN]
    check_same(found, write, arguments())


def test_shapes_that_are_an_input_are_not_fused():
    """Nothing says that they are those of the levels."""

    def write(value, references, offsets, logits, shapes):
        offsets, logits = heads_of(offsets, logits)
        return deformable_detr(value, references[:, :, None, :, None, :] + offsets / shapes.flip(1)[:, None], logits)

    given = (*arguments(), SHAPES)
    found, _ = rewrite(export(write, given), ["ms_deform_attn"])
    assert targets(found) == [PLAIN]
    check_same(found, write, (*arguments(), 2 * SHAPES))
