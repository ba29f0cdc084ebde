"""Numbers in a model's code that a pass reads: however they are spelt, and counted from whichever end."""

import pytest
import torch
import torch.nn.functional as F
from attention_over_levels import HEAD_DIM, HEADS, POINTS, Maps, deformable_detr, weigh
from attention_over_levels import arguments as of_levels
from rope_programs import check_same, export
from test_passes_sampling import arguments as of_boxes
from test_passes_sampling import heads_of
from torch.export import Dim

from bridge.graph import capture
from bridge.passes import rewrite

LEVELS = ((2, 2), (1, 2))  # of 6 positions


def attention(second):
    """Deformable attention to two levels of value [N, S, H D]. second: the second, as [N, height, width, H, D]."""

    def attend(value, locations, logits):
        value = value.unflatten(-1, (HEADS, -1))
        parts = [value[:, :4].unflatten(1, (2, 2)), second(value)]
        grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
        samples = [
            F.grid_sample(part.permute(0, 3, 4, 1, 2).flatten(0, 1), grid, align_corners=False)
            for part, grid in zip(parts, grids.unbind(), strict=True)
        ]
        return weigh(torch.stack(samples, -2).flatten(-2), logits.softmax(-1))

    return attend


SAME = {
    "from the end": lambda value: value[:, -2:],
    "from before the end": lambda value: value[:, -3:-1],
    "past both ends": lambda value: value[:, -99:99][:, 4:],
    "a slice of a slice": lambda value: value[:, 2:][:, 1:3],
    "narrow": lambda value: value.narrow(1, -2, 2),
    "the last of a split": lambda value: value.split([1, 3, 2], 1)[-1],
    "a negative dimension": lambda value: value.narrow(-3, -5, 2),
}
# Of these the last two are levels of another tensor.
OTHERS = {
    "every second one": lambda value: value[:, ::2][:, :2],
    "of half the channels": lambda value: value[:, 4:, :, : HEAD_DIM // 2].repeat(1, 1, 1, 2),
    "backwards": lambda value: value.flip(1)[:, -2:],
    "rolled": lambda value: value.roll(2, 1)[:, :2],
}


@pytest.mark.parametrize("cut", SAME.values(), ids=list(SAME))
def test_a_level_however_it_is_cut(cut):
    write = attention(lambda value: cut(value).unflatten(1, (1, 2)))
    found, (outcome,) = rewrite(export(write, of_levels(levels=LEVELS)), ["ms_deform_attn"])
    assert outcome.replaced, outcome.what
    check_same(found, write, of_levels(levels=LEVELS))


@pytest.mark.parametrize("cut", OTHERS.values(), ids=list(OTHERS))
def test_other_positions_are_no_level(cut):
    write = attention(lambda value: cut(value).unflatten(1, (1, 2)))
    program = export(write, of_levels(levels=LEVELS))
    found, (outcome,) = rewrite(program, ["ms_deform_attn"])
    assert not outcome.replaced and ("cut from" in outcome.what)
    check_same(found, write, of_levels(levels=LEVELS))


@pytest.mark.parametrize("axis", [1, 2], ids=["rows", "columns"])
def test_a_part_of_a_map_is_no_level(axis):
    """Rows or columns of a larger map: the op knows no pitch of rows, nor a start within one."""
    shape = (3, 2) if axis == 1 else (2, 3)
    part = (slice(None),) * axis + (slice(1, 3),)
    write = attention(lambda value: value.unflatten(1, shape)[part])
    program = export(write, of_levels(levels=LEVELS))
    found, (outcome,) = rewrite(program, ["ms_deform_attn"])
    assert found is program and "a level is not cut from [N, S, H, D]" in outcome.what


@pytest.mark.parametrize(
    ("point", "size", "fused"),
    [
        (lambda box: box[..., -4:-2], lambda box: box[..., -2:], True),
        (lambda box: box.narrow(-1, -4, 2), lambda box: box.chunk(2, -1)[-1], True),
        (lambda box: box[..., :-2], lambda box: box[..., 1:][..., 1:99], True),
        (lambda box: box[..., -3:-1], lambda box: box[..., -2:], False),
        (lambda box: box[..., -2:], lambda box: box[..., :2], False),
    ],
)
def test_coordinates_of_boxes(point, size, fused):
    def write(value, references, offsets, logits):
        offsets, logits = heads_of(offsets, logits)
        boxes = references[:, :, None, :, None, :]
        return deformable_detr(value, point(boxes) + offsets / POINTS * size(boxes) * 0.5, logits)

    given = of_boxes(coordinates=4)
    found, (outcome,) = rewrite(export(write, given), ["ms_deform_attn"])
    assert outcome.replaced and ("fused" in outcome.what) == fused
    check_same(found, write, given)


class Sliced(Maps):
    """Levels of dynamic extents, cut by their numbers of positions, the second one from the end."""

    def forward(self, large, small, locations, logits):
        images = (large, small)
        value = torch.cat([image.flatten(2).transpose(1, 2) for image in images], 1).unflatten(-1, (HEADS, HEAD_DIM))
        counts = [image.shape[2] * image.shape[3] for image in images]
        parts = value[:, : counts[0]], value[:, counts[0] : counts[0] + counts[1]]
        samples = []
        for place, (part, image) in enumerate(zip(parts, images, strict=True)):
            level = part.permute(0, 2, 3, 1).reshape(-1, HEAD_DIM, *image.shape[2:])
            grid = (2 * locations - 1)[:, :, :, place - 2].transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(level, grid, align_corners=False))
        return weigh(torch.stack(samples, -2).flatten(-2), logits.softmax(-1))


def test_levels_of_dynamic_extents():
    height, width = Dim("height", min=2, max=16), Dim("width", min=2, max=16)
    extents = {"large": {2: 2 * height, 3: 2 * width}, "small": {2: height, 3: width}}
    shapes = {**extents, "locations": None, "logits": None}
    program = capture.export(Sliced().eval(), Maps.example(), {}, shapes)
    found, (outcome,) = rewrite(program, ["ms_deform_attn"])
    assert outcome.replaced, outcome.what
    for size in [(4, 6), (3, 2)]:
        check_same(found, Sliced(), Maps.example(*size))
