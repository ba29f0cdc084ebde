"""Code that writes in place, as models build tables and rotate parts: the passes see through it."""

import pytest
import torch
import torch.nn.functional as F
from attention_over_levels import HEADS, cut, weigh
from attention_over_levels import arguments as of_attention
from oracle import ahead, assert_same, interpreted
from rope_programs import DYNAMIC, Function, arguments, both, check_same, export
from rotary_code import by_head, full, hugging_face, rotate_half
from test_passes import torch_tensorrt

import bridge
from bridge.passes import rewrite, rewrite_graph
from bridge.passes.functional import may_hide_ops, mutations, without_mutations

__all__ = ["torch_tensorrt"]  # a fixture


def lanes_in_turn(x, angles):
    cos, sin = angles.cos().to(x.dtype)[:, None], angles.sin().to(x.dtype)[:, None]
    result = torch.empty_like(x)
    result[..., ::2] = x[..., ::2] * cos - x[..., 1::2] * sin
    result[..., 1::2] = x[..., 1::2] * cos + x[..., ::2] * sin
    return result


def pairs_by_number(x, angles):
    cos, sin = angles.cos().to(x.dtype)[:, None], angles.sin().to(x.dtype)[:, None]
    pairs = x.unflatten(-1, (-1, 2))
    result = torch.zeros_like(pairs)
    result[..., 0] = pairs[..., 0] * cos - pairs[..., 1] * sin
    result[..., -1] = pairs[..., -1] * cos + pairs[..., -2] * sin
    return result.flatten(-2)


def first_lanes(x, angles):
    x = x.clone()
    x[..., :8] = hugging_face(x[..., :8], angles[..., :4])
    return x


def last_lanes_kept(x, angles):
    result = hugging_face(x, angles)
    result[..., -1:].copy_(x[..., -1:])  # no rotation of whole pairs
    return result


def added(x, angles):
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    result = x * cos
    result += rotate_half(x).mul_(sin)
    return result


def interleaved_sections(x, angles):
    """As Qwen3-VL mixes the angles of time, height and width."""
    angles = torch.stack((angles, 2 * angles, 3 * angles))
    mixed = angles[0]
    for axis in (1, 2):
        mixed[..., axis : 3 * 2 : 3] = angles[axis, ..., axis : 3 * 2 : 3]
    return hugging_face(x, mixed)


WAYS = [lanes_in_turn, pairs_by_number, first_lanes, added, interleaved_sections]


@pytest.mark.parametrize("write", WAYS)
def test_a_rotation_that_is_written_in_place(write):
    program = export(both(write), arguments(), DYNAMIC)
    found, (outcome,) = rewrite(program, ["rope"])
    assert outcome.replaced and "in forward: return self.function" in outcome.line, outcome
    assert mutations(program.graph), "the program that was given was changed"
    check_same(found, both(write), arguments(3, 7))


def test_a_lane_written_over():
    program = export(last_lanes_kept, arguments()[::2])
    found, outcomes = rewrite(program, ["rope"])
    check_same(found, last_lanes_kept, arguments()[::2])
    assert [outcome.what for outcome in outcomes if outcome.replaced] == ["bridge.rope of one tensor, half-split, bhsd"]


def test_deformable_attention_into_slots():
    def write(value, locations, logits):
        grids, maps = 2 * locations - 1, cut(value)
        samples = []
        for place, level in enumerate(maps):
            grid = grids[:, :, :, place].transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(level, grid, align_corners=False))
        weights = logits.softmax(-1)
        weights[:, :, HEADS - 1].mul_(1)
        return weigh(torch.stack(samples, -2).flatten(-2), weights)

    found, (outcome,) = rewrite(export(write, of_attention()), ["ms_deform_attn"])
    assert outcome.replaced, outcome.what
    check_same(found, write, of_attention())


def test_twice_is_once():
    program = export(both(interleaved_sections), arguments(), DYNAMIC)
    without = without_mutations(program)
    assert without_mutations(without) is without
    assert not mutations(without.graph) and not may_hide_ops(without.graph)
    found, (outcome,) = rewrite(without, ["rope"])
    assert outcome.replaced
    check_same(found, both(interleaved_sections), arguments(3, 7))


def test_what_holds_no_pattern_is_not_traced_again(monkeypatch):
    """A ResNet with relu_ and += has neither signs that turn nor samples."""
    monkeypatch.setattr("bridge.passes.without_mutations", lambda program: pytest.fail("traced again"))
    program = export(lambda x: x.mul(2).relu_().add_(x), (torch.randn(2, 3, 4, 4),))
    assert rewrite(program, ["rope"]) == (program, [])


def test_a_program_that_cannot_be_traced_again_stays(monkeypatch):
    def fail(program):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("bridge.passes.without_mutations", fail)
    program = export(interleaved_sections, arguments()[::2])
    found, (outcome,) = rewrite(program, ["rope"])
    assert found is program and "writes in place" in outcome.what


def test_networks():
    model, given = Function(both(lanes_in_turn)).eval(), arguments()
    with interpreted():
        compiled = ahead(model, given)
        assert compiled.plugin_counts() == {"rope": 1}
        assert_same(compiled(*given), model(*given), 1e-5, 1e-5)


def test_torch_tensorrt_sees_no_write(torch_tensorrt):
    """Its graphs are lowered, and functional, before they come to the passes."""
    given = arguments()
    program = torch.export.export(Function(both(interleaved_sections)).eval(), given, strict=False)
    with bridge.cross_compile(None if torch.cuda.is_available() else "sm86"):
        compiled = torch_tensorrt.dynamo.compile(program, list(given), min_block_size=1)
    assert bridge.report(compiled).plugin_counts() == {"rope": 1}
    graph = program.run_decompositions({}).graph
    assert [outcome.replaced for outcome in rewrite_graph(graph, ["rope"])] == [True]
