"""The pass that finds multi-scale deformable attention written with grid_sample."""

import pytest
import torch
import torch.nn.functional as F
from attention_over_levels import (
    DYNAMIC,
    HEAD_DIM,
    HEADS,
    Maps,
    arguments,
    calls,
    cut,
    deformable_detr,
    heads_first,
    on_grids,
    rt_detr_v2,
    weigh,
)
from rope_programs import check_same, export
from torch.export import Dim

import bridge
from bridge.graph import capture
from bridge.passes import rewrite, rewrite_graph


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


def _channels_of_heads_apart(value, locations, logits):
    return deformable_detr(value, locations, logits).unflatten(-1, (HEADS, HEAD_DIM)).transpose(-1, -2)


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
        return on_grids(value, locations, logits, lambda x: 2 * x - 1, maps=maps)

    program = export(write, arguments())
    found, (outcome,) = rewrite(program, ["ms_deform_attn"])
    check_same(found, write, arguments())
    (outcome,) = rewrite_graph(program.graph, ["ms_deform_attn"])  # a graph that keeps its writes
    assert not outcome.replaced and "writes in place" in outcome.what
