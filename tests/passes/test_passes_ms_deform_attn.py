"""The pass that finds multi-scale deformable attention written with grid_sample."""

import pytest
import torch
import torch.nn.functional as F
from test_passes_rope import check_same, export
from torch.export import Dim

import bridge
from bridge.graph import capture
from bridge.passes import rewrite, rewrite_graph

OP = torch.ops.bridge.ms_deform_attn.default
HEADS, HEAD_DIM, POINTS = 2, 4, 3
LEVELS = ((4, 5), (2, 3), (1, 2))
BATCH, QUERIES = Dim("batch", min=1, max=4), Dim("queries", min=1, max=64)


def arguments(batch=2, queries=6, levels=LEVELS, dtype=torch.float32):
    """value [N, S, H D], locations [N, Q, H, L, P, 2] and logits [N, Q, H, L P]."""
    generator = torch.Generator().manual_seed(batch + queries)
    positions = sum(height * width for height, width in levels)
    value = torch.randn(batch, positions, HEADS * HEAD_DIM, generator=generator)
    locations = torch.rand(batch, queries, HEADS, len(levels), POINTS, 2, generator=generator) * 1.4 - 0.2
    logits = torch.randn(batch, queries, HEADS, len(levels) * POINTS, generator=generator)
    return tuple(tensor.to(dtype) for tensor in (value, locations, logits))


DYNAMIC = ({0: BATCH}, {0: BATCH, 1: QUERIES}, {0: BATCH, 1: QUERIES})


def cut(value, levels=LEVELS):
    """[N, S, H D] as maps of [N H, D, height, width]."""
    n = value.shape[0]
    parts = value.view(n, -1, HEADS, HEAD_DIM).split([height * width for height, width in levels], dim=1)
    return [
        part.flatten(2).transpose(1, 2).reshape(n * HEADS, HEAD_DIM, *level)
        for part, level in zip(parts, levels, strict=True)
    ]


def weigh(samples, weights):
    """[N, Q, H D] of samples of [N H, D, Q, L P] and weights [N, Q, H, L P]."""
    n, queries = weights.shape[:2]
    weights = weights.transpose(1, 2).reshape(n * HEADS, 1, queries, -1)
    return (samples * weights).sum(-1).view(n, HEADS * HEAD_DIM, queries).transpose(1, 2).contiguous()


def softmax(logits):
    return logits.softmax(-1)


def deformable_detr(value, locations, logits, *, sample=F.grid_sample, levels=LEVELS, normalize=softmax):
    grids = 2 * locations - 1
    samples = [
        sample(level, grids[:, :, :, place].transpose(1, 2).flatten(0, 1), align_corners=False)
        for place, level in enumerate(cut(value, levels))
    ]
    return weigh(torch.stack(samples, dim=-2).flatten(-2), normalize(logits))


def rt_detr_v2(value, locations, logits):
    n, queries = logits.shape[:2]
    maps = value.view(n, -1, HEADS, HEAD_DIM).permute(0, 2, 3, 1).flatten(0, 1)
    maps = maps.split([height * width for height, width in LEVELS], dim=-1)
    grids = 2 * locations.view(n, queries, HEADS, -1, 2) - 1
    grids = grids.permute(0, 2, 1, 3, 4).flatten(0, 1).split([POINTS] * len(LEVELS), dim=-2)
    samples = [
        F.grid_sample(part.reshape(n * HEADS, HEAD_DIM, *level), grid, align_corners=False)
        for part, grid, level in zip(maps, grids, LEVELS, strict=True)
    ]
    weights = logits.softmax(-1).permute(0, 2, 1, 3).reshape(n * HEADS, 1, queries, -1)
    output = (torch.concat(samples, dim=-1) * weights).sum(-1).view(n, HEADS * HEAD_DIM, queries)
    return output.transpose(1, 2).contiguous()


def heads_first(value, locations, logits):
    """With slices for splits, unbind for indexing, levels and points summed one dimension each, factors swapped."""
    n, queries = logits.shape[:2]
    value = value.unflatten(-1, (HEADS, HEAD_DIM)).permute(0, 2, 3, 1)
    samples, start = [], 0
    for (height, width), grid in zip(LEVELS, (locations * 2 - 1).unbind(3), strict=True):
        level = value[..., start : start + height * width].reshape(-1, HEAD_DIM, height, width)
        grid = grid.permute(0, 2, 1, 3, 4).reshape(n * HEADS, queries, POINTS, 2)
        samples.append(F.grid_sample(level, grid, align_corners=False))
        start += height * width
    weights = logits.softmax(-1).unflatten(-1, (len(LEVELS), POINTS)).transpose(1, 2).flatten(0, 1).unsqueeze(1)
    total = (weights * torch.stack(samples, 3)).sum((-2, -1))
    return total.unflatten(0, (n, HEADS)).permute(0, 3, 1, 2).flatten(2)


def calls(program):
    return program.graph.find_nodes(op="call_function", target=OP)


@pytest.mark.parametrize("write", [deformable_detr, rt_detr_v2, heads_first])
def test_every_way_to_write_it(write):
    static = export(write, arguments()).run_decompositions()
    for given, sizes in ((export(write, arguments(), DYNAMIC), [(2, 6), (1, 1), (3, 9)]), (static, [(2, 6)])):
        found, outcomes = rewrite(given, ["ms_deform_attn"])
        assert [outcome.what for outcome in outcomes] == ["bridge.ms_deform_attn over levels of 4x5, 2x3, 1x2"]
        assert len(calls(found)) == 1
        left = {str(node.target) for node in found.graph.nodes}
        assert not {name for name in left if "grid_sample" in name or "sum" in name}
        for batch, queries in sizes:
            check_same(found, write, arguments(batch, queries))


@pytest.mark.parametrize("levels", [((4, 5),), ((2, 2), (2, 2)), ((1, 1), (3, 1), (1, 4))])
def test_levels(levels):
    """One level, levels that are alike, extents of 1."""

    def write(*args):
        return deformable_detr(*args, levels=levels)

    found, (outcome,) = rewrite(export(write, arguments(levels=levels)), ["ms_deform_attn"])
    assert outcome.replaced, outcome.what
    check_same(found, write, arguments(levels=levels))


def test_extents_that_are_equal():
    """Nothing tells queries from heads by their extent, or points from levels."""

    def swapped(value, locations, logits):
        return deformable_detr(value, locations.transpose(1, 2), logits)

    given = arguments(2, HEADS)
    for write, dims in ((deformable_detr, 1), (swapped, 1)):
        found, outcomes = rewrite(export(write, given), ["ms_deform_attn"])
        assert len(calls(found)) == dims, outcomes
        check_same(found, write, given)


def test_half_precision_is_closer_to_the_exact_result():
    given = arguments(dtype=torch.float16)
    found, _ = rewrite(export(deformable_detr, given), ["ms_deform_attn"])
    exact = deformable_detr(*(tensor.double() for tensor in given))
    ours, theirs = found.module(check_guards=False)(*given), deformable_detr(*given)
    assert ours.dtype == torch.float16
    assert (ours - exact).abs().max() <= (theirs - exact).abs().max() + 1e-3


# What comes near: how it is written, and a part of the reason.


def _with(**changes):
    def write(value, locations, logits):
        return deformable_detr(value, locations, logits, **changes)

    return write


def _nearest(level, grid, align_corners):
    return F.grid_sample(level, grid, mode="nearest", align_corners=False)


def _corners(level, grid, align_corners):
    return F.grid_sample(level, grid, align_corners=True)


def _border(level, grid, align_corners):
    return F.grid_sample(level, grid, padding_mode="border", align_corners=False)


def _on_grids(value, locations, logits, scale, order=(0, 1, 2), maps=None):
    grids = scale(locations)
    samples = [
        F.grid_sample(level, grids[:, :, :, place].transpose(1, 2).flatten(0, 1), align_corners=False)
        for place, level in zip(order, maps or cut(value), strict=True)
    ]
    return weigh(torch.stack(samples, dim=-2).flatten(-2), logits.softmax(-1))


def _unscaled(value, locations, logits):
    return _on_grids(value, locations, logits, lambda x: x)


def _other_scale(value, locations, logits):
    return _on_grids(value, locations, logits, lambda x: 2 * x - 1.5)


def _levels_swapped(value, locations, logits):
    return _on_grids(value, locations, logits, lambda x: 2 * x - 1, order=(1, 0, 2))


def _mixed_values(value, locations, logits):
    maps = [*cut(value)[:2], cut(value + 1)[2]]
    return _on_grids(value, locations, logits, lambda x: 2 * x - 1, maps=maps)


def _columns_first(value, locations, logits):
    maps = [level.flatten(2).unflatten(2, level.shape[:1:-1]).transpose(2, 3) for level in cut(value)]
    return _on_grids(value, locations, logits, lambda x: 2 * x - 1, maps=maps)


def _points_before_levels(value, locations, logits):
    grids = 2 * locations - 1
    samples = [
        F.grid_sample(level, grids[:, :, :, place].transpose(1, 2).flatten(0, 1), align_corners=False)
        for place, level in enumerate(cut(value))
    ]
    return weigh(torch.stack(samples, dim=-1).flatten(-2), logits.softmax(-1))


def _weights_of_channels(value, locations, logits):
    grids = 2 * locations - 1
    samples = [
        F.grid_sample(level, grids[:, :, :, place].transpose(1, 2).flatten(0, 1), align_corners=False)
        for place, level in enumerate(cut(value))
    ]
    n, queries = logits.shape[:2]
    weights = logits.transpose(1, 2).reshape(n * HEADS, 1, queries, -1) * torch.randn(HEAD_DIM, 1, 1)
    total = (torch.stack(samples, -2).flatten(-2) * weights).sum(-1)
    return total.view(n, HEADS * HEAD_DIM, queries).transpose(1, 2)


def _channels_of_heads_apart(value, locations, logits):
    return deformable_detr(value, locations, logits).unflatten(-1, (HEADS, HEAD_DIM)).transpose(-1, -2)


NEAR_MISSES = [
    (_with(sample=_nearest), "mode 1, padding 0 and align_corners=False"),
    (_with(sample=_corners), "mode 0, padding 0 and align_corners=True"),
    (_with(sample=_border), "mode 0, padding 1"),
    (_unscaled, "not sampled at 2 location - 1"),
    (_other_scale, "not sampled at 2 location - 1"),
    (_levels_swapped, "the locations of level 0"),
    (_mixed_values, "cut from several tensors"),
    (_columns_first, "a level is not cut from [N, S, H, D]"),
    (_points_before_levels, "not over the levels and points"),
    (_weights_of_channels, "not multiplied by weights of [N, Q, H, L, P]"),
]


@pytest.mark.parametrize(("write", "reason"), NEAR_MISSES)
def test_near_misses_are_left_alone(write, reason):
    program = export(write, arguments())
    found, (outcome,) = rewrite(program, ["ms_deform_attn"])
    assert found is program and not outcome.replaced and reason in outcome.what


def test_what_follows_is_kept():
    found, _ = rewrite(export(_channels_of_heads_apart, arguments()), ["ms_deform_attn"])
    assert len(calls(found)) == 1
    check_same(found, _channels_of_heads_apart, arguments())


def test_intermediates_that_are_used_elsewhere():
    def write(value, locations, logits):
        grids = 2 * locations - 1
        samples = [
            F.grid_sample(level, grids[:, :, :, place].transpose(1, 2).flatten(0, 1), align_corners=False)
            for place, level in enumerate(cut(value))
        ]
        stacked = torch.stack(samples, dim=-2).flatten(-2)
        weights = logits.softmax(-1)
        return weigh(stacked, weights), samples[1], weights

    found, _ = rewrite(export(write, arguments()), ["ms_deform_attn"])
    assert len(calls(found)) == 1
    check_same(found, write, arguments())


class Maps(torch.nn.Module):
    """Attention to two images, whose extents are the levels'."""

    def forward(self, large, small, locations, logits):
        n, samples, values = large.shape[0], [], []
        for image in (large, small):
            values.append(image.flatten(2).transpose(1, 2).unflatten(-1, (HEADS, HEAD_DIM)))
        parts = torch.cat(values, 1).split([value.shape[1] for value in values], 1)
        for place, (part, image) in enumerate(zip(parts, (large, small), strict=True)):
            level = part.flatten(2).transpose(1, 2).reshape(n * HEADS, HEAD_DIM, *image.shape[2:])
            grid = (2 * locations - 1)[:, :, :, place].transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(level, grid, align_corners=False))
        return weigh(torch.stack(samples, -2).flatten(-2), logits.softmax(-1))

    @staticmethod
    def example(height=4, width=6):
        _, locations, logits = arguments(levels=((4, 6), (2, 3)))
        shapes = (2, HEADS * HEAD_DIM, 2 * height, 2 * width), (2, HEADS * HEAD_DIM, height, width)
        return *(torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes), locations, logits


HEIGHT, WIDTH = Dim("height", min=2, max=16), Dim("width", min=2, max=16)
EXTENTS = {
    **{"large": {2: 2 * HEIGHT, 3: 2 * WIDTH}, "small": {2: HEIGHT, 3: WIDTH}},
    **{"locations": None, "logits": None},
}


def test_levels_whose_extents_are_dynamic():
    program = capture.export(Maps().eval(), Maps.example(), {}, EXTENTS)
    found, (outcome,) = rewrite(program, ["ms_deform_attn"])
    assert outcome.replaced and len(calls(found)) == 1, outcome.what
    for size in [(4, 6), (3, 2), (7, 7)]:
        check_same(found, Maps(), Maps.example(*size))
    compiled = bridge.compile(Maps().eval(), Maps.example(), dynamic_shapes=EXTENTS, target="sm86")
    assert compiled.plugin_counts() == {"ms_deform_attn": 1}


def test_bridge_compile():
    class Model(torch.nn.Module):
        def forward(self, value, locations, logits):
            return deformable_detr(value, locations, logits)

    shapes = dict(zip(("value", "locations", "logits"), DYNAMIC, strict=True))
    compiled = bridge.compile(Model().eval(), arguments(), dynamic_shapes=shapes, target="sm86")
    assert compiled.plugin_counts() == {"ms_deform_attn": 1}
    assert "bridge.ms_deform_attn over levels of 4x5, 2x3, 1x2" in compiled.explain()


def test_written_in_place():
    def write(value, locations, logits):
        value = value * 1
        maps = cut(value)
        value.add_(1)
        return _on_grids(value, locations, logits, lambda x: 2 * x - 1, maps=maps)

    program = export(write, arguments())
    found, (outcome,) = rewrite(program, ["ms_deform_attn"])
    check_same(found, write, arguments())
    (outcome,) = rewrite_graph(program.graph, ["ms_deform_attn"])  # a graph that keeps its writes
    assert not outcome.replaced and "writes in place" in outcome.what
