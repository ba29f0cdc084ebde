"""What follows a replaced value: views that its strides allowed, and what reads memory by strides."""

import pytest
import torch
import torch.nn.functional as F
from attention_over_levels import arguments as of_attention
from attention_over_levels import deformable_detr
from oracle import ahead, assert_same, interpreted
from rope_programs import DYNAMIC, Function, arguments, check_same, export
from rotary_code import hugging_face

from bridge.passes import rewrite

aten = torch.ops.aten


def rotated(q, angles):
    """[B, H, S, D], which lies in memory as [B, S, H, D], as x cos + x' sin of a transposed x does."""
    return hugging_face(q.transpose(1, 2).contiguous().transpose(1, 2), angles)


def attended(q, k, angles):
    q, k = rotated(q, angles), rotated(k, angles).repeat_interleave(2, 1)
    return F.scaled_dot_product_attention(q, k, k).transpose(1, 2).contiguous().flatten(2)


def merged(q, k, angles):
    return rotated(q, angles).transpose(1, 2).view(q.shape[0], q.shape[2], -1)


def scaled_first(q, k, angles):
    return (rotated(q, angles) * 2).transpose(1, 2).view(-1, q.shape[3]), rotated(k, angles).sum()


def as_strided(q, k, angles):
    return rotated(q, angles).as_strided((3, 7), (2, 1), 5)


def as_complex(q, k, angles):
    pairs = rotated(q, angles).transpose(1, 2).view(q.shape[0], -1, 2)
    return torch.view_as_real(torch.view_as_complex(pairs)).sin()


WAYS = [attended, merged, scaled_first, as_strided, as_complex]


@pytest.mark.parametrize(("write", "decomposed"), [*((write, False) for write in WAYS), (merged, True)])
def test_what_follows_a_rotation_still_runs(write, decomposed):
    program = export(write, arguments(), None if write is as_strided else DYNAMIC)
    program = program.run_decompositions() if decomposed else program
    found, outcomes = rewrite(program, ["rope"])
    assert outcomes and all(outcome.replaced for outcome in outcomes)
    check_same(found, write, arguments())
    check_same(found.run_decompositions({}), write, arguments())


def test_the_network_has_the_views():
    with interpreted():
        model = Function(merged).eval()
        compiled = ahead(model, arguments(), {"args": DYNAMIC})
        for size in ((2, 5), (3, 7)):
            assert_same(compiled(*arguments(*size)), model(*arguments(*size)), 1e-5, 1e-5)


def test_deformable_attention():
    """Without its last copy [N, Q, H D] lies in memory as [N, H D, Q]."""

    def write(value, locations, logits):
        total = deformable_detr(value, locations, logits).transpose(1, 2).contiguous().transpose(1, 2)
        return total.transpose(1, 2).view(value.shape[0], 2, 4, -1)

    def uncopied(value, locations, logits):
        n, queries = logits.shape[:2]
        maps = value.view(n, 20, 2, 4).view(n, 4, 5, 2, 4).permute(0, 3, 4, 1, 2).reshape(2 * n, 4, 4, 5)
        grid = (2 * locations - 1)[:, :, :, 0].transpose(1, 2).flatten(0, 1)
        weights = logits.softmax(-1).transpose(1, 2).reshape(2 * n, 1, queries, -1)
        total = (F.grid_sample(maps, grid, align_corners=False) * weights).sum(-1).view(n, 8, queries).transpose(1, 2)
        return total.transpose(1, 2).view(n, 2, 4, queries), total.transpose(1, 2).as_strided((3, 5), (1, 2), 1)

    for function, levels in ((write, ((4, 5), (2, 3), (1, 2))), (uncopied, ((4, 5),))):
        given = of_attention(levels=levels)
        found, (outcome,) = rewrite(export(function, given), ["ms_deform_attn"])
        assert outcome.replaced, outcome.what
        check_same(found, function, given)


def test_leaky_relu():
    def write(x):
        return torch.maximum(x.transpose(0, 1), 0.1 * x.transpose(0, 1)).transpose(0, 1).view(-1)

    found, (outcome,) = rewrite(export(write, (torch.randn(3, 4),)), ["relu"])
    assert outcome.replaced
    check_same(found, write, (torch.randn(3, 4),))


@pytest.mark.parametrize("place", ["find_rotation", "OPS"])
def test_an_error_in_a_pass_is_a_reason(place, monkeypatch):
    def fail(*args):
        raise AttributeError("'tuple' object has no attribute 'target'\nand more")

    class Failing(dict):
        __getitem__ = fail

    monkeypatch.setattr(f"bridge.passes.rope.{place}", fail if place == "find_rotation" else Failing())
    program = export(hugging_face, arguments()[::2])
    found, outcomes = rewrite(program, ["rope"])
    assert found is program and outcomes and not any(outcome.replaced for outcome in outcomes)
    assert "(AttributeError: 'tuple' object has no attribute 'target')" in outcomes[-1].what
