"""Attention on heads behind tokens: transposes that go, and those that must stay."""

import pytest
import torch
from programs import Function
from torch.export import Dim
from window_programs import WINDOW, calls

import bridge
from bridge.graph import capture
from bridge.passes import rewrite

aten = torch.ops.aten
ROPE = torch.ops.bridge.rope.default
HEADS, GROUPS, WIDTH, TOKENS = 4, 2, 8, 7


def heads(x, count):
    """[B, S, heads * D] to [B, heads, S, D], as models write it."""
    return x.view(*x.shape[:2], count, WIDTH).transpose(1, 2)


def arguments(batch=2, tokens=TOKENS):
    """Projections to queries, keys and values, and the tables of a rotary embedding."""
    g = torch.Generator().manual_seed(tokens)
    sizes = [(batch, tokens, count * WIDTH) for count in (HEADS, GROUPS, GROUPS)] + [(tokens, WIDTH // 2)] * 2
    return tuple(torch.randn(size, generator=g) for size in sizes)


def attended(q, k, v, **settings):
    return bridge.window_attention(q, k, v, window_left=3, **settings)


def rotated(q, k, v, cos, sin):
    q, k = bridge.rope(heads(q, HEADS), heads(k, GROUPS), cos, sin)
    return attended(q, k, heads(v, GROUPS))


def plain(q, k, v, cos, sin):
    y = attended(heads(q, HEADS), heads(k, GROUPS).contiguous(), heads(v, GROUPS))
    return y.transpose(1, 2).flatten(2)


def with_rope(*args):
    return rotated(*args).transpose(1, 2).contiguous().flatten(2)


def permuted(q, k, v, cos, sin):
    q, k, v = (heads(x, n).transpose(1, 2).permute(0, -2, 1, 3) for x, n in ((q, HEADS), (k, GROUPS), (v, GROUPS)))
    return attended(q, k, v).permute(0, 2, 1, -1).reshape(q.shape[0], -1, HEADS * WIDTH)


def rewritten(function, dynamic=True):
    shapes = None
    if dynamic:
        batch, tokens = Dim("batch", min=1, max=4), Dim("tokens", min=1, max=48)
        shapes = {"args": ({0: batch, 1: tokens},) * 3 + ({0: tokens},) * 2}
    program = capture.export(Function(function).eval(), arguments(), {}, shapes)
    found, outcomes = rewrite(program, ["head_layout"])
    sizes = [(2, 7), (1, 1), (3, 19)] if dynamic else [(2, 7)]
    for size in sizes:
        args = arguments(*size)
        torch.testing.assert_close(found.module(check_guards=False)(*args), function(*args))
    return found, outcomes


def swaps(program):
    return [*calls(program, aten.transpose.int), *calls(program, aten.permute.default)]


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("function", [plain, with_rope, permuted])
def test_all_transposes_go(function, dynamic):
    found, (outcome,) = rewritten(function, dynamic)
    assert outcome.what == 'bridge.window_attention, layout "bshd"'
    assert all(call.kwargs["layout"] == "bshd" for target in (WINDOW, ROPE) for call in calls(found, target))
    kept = swaps(found)
    assert not kept if function is not permuted else all(node.args[1:] == (1, 2) for node in kept)


def test_attributes_and_further_tensors_stay():
    def function(q, k, v, cos, sin):
        ranges = torch.tensor([[[1, 5]]])
        sinks = torch.linspace(-1, 1, HEADS)
        q, k = bridge.rope(heads(q, HEADS), heads(k, GROUPS), cos, sin, interleaved=True)
        return attended(q, k, heads(v, GROUPS), sinks=sinks, key_ranges=ranges, scale=0.3, softcap=2.0)

    found, _ = rewritten(function)
    (call,), (rope,) = calls(found), calls(found, ROPE)
    assert (call.kwargs["window_left"], call.kwargs["scale"], call.kwargs["softcap"]) == (3, 0.3, 2.0)
    assert call.kwargs["sinks"] is not None and call.kwargs["key_ranges"] is not None and rope.kwargs["interleaved"]


def test_results_with_heads_first_and_keys_that_are_used_elsewhere():
    def function(q, k, v, cos, sin):
        q, k = bridge.rope(heads(q, HEADS), heads(k, GROUPS), cos, sin)
        y = attended(q, k, heads(v, GROUPS))
        return y, y.transpose(1, 2) + 1, k, k.transpose(1, 2), q.exp()

    found, _ = rewritten(function)
    assert len(calls(found)) == len(calls(found, ROPE)) == 1
    assert calls(found)[0].kwargs["layout"] == "bshd"


def test_two_attentions_share_keys():
    def function(q, k, v, cos, sin):
        first, k = bridge.rope(heads(q, HEADS), heads(k, GROUPS), cos, sin)
        v = heads(v, GROUPS)
        return attended(first, k, v).transpose(1, 2), attended(heads(q, HEADS), k, v).transpose(1, 2)

    found, outcomes = rewritten(function)
    assert len(outcomes) == 2 and len(calls(found, ROPE)) == 1 and not swaps(found)


def test_a_rotary_embedding_between_transposes():
    def function(q, k, v, cos, sin):
        q, k = bridge.rope(heads(q, HEADS), heads(k, GROUPS), cos, sin)
        q, k, v = q.transpose(1, 2).contiguous(), k.permute(0, 2, 1, 3), v.unflatten(2, (GROUPS, WIDTH))
        return attended(q, k, v, layout="bshd").flatten(2)

    found, (outcome,) = rewritten(function)
    assert outcome.what == 'bridge.rope, layout "bshd"' and not swaps(found)


def test_a_rotary_embedding_that_is_read_with_heads_first_stays():
    def function(q, k, v, cos, sin):
        q, k = bridge.rope(heads(q, HEADS), heads(k, GROUPS), cos, sin)
        return q.transpose(1, 2), k

    assert rewritten(function)[1] == []


def _cached(q, k, v, cos, sin):
    q, k = bridge.rope(heads(q, HEADS), heads(k, GROUPS), cos, sin)
    k, v = torch.cat((k, k), 2), torch.cat((heads(v, GROUPS),) * 2, 2)
    return attended(q, k, v)


def _normed(q, k, v, cos, sin):
    return attended(torch.nn.functional.rms_norm(heads(q, HEADS), (WIDTH,)), heads(k, GROUPS), heads(v, GROUPS))


def _tokens_first(q, k, v, cos, sin):
    q, k, v = (heads(x, n).transpose(1, 2) for x, n in ((q, HEADS), (k, GROUPS), (v, GROUPS)))
    return attended(q, k, v, layout="bshd")


def _other_axes(q, k, v, cos, sin):
    q, k, v = (heads(x, n).transpose(2, 3).transpose(2, 3) for x, n in ((q, HEADS), (k, GROUPS), (v, GROUPS)))
    return attended(q, k, v)


@pytest.mark.parametrize("function", [_cached, _normed, _tokens_first, _other_axes])
def test_what_stays(function):
    _, outcomes = rewritten(function)
    assert not outcomes


def test_what_is_written_to_stays():
    def function(q, k, v, cos, sin):
        q = heads(q, HEADS).clone()
        k = heads(k, GROUPS)
        y = attended(q, k, heads(v, GROUPS))
        k.mul_(2.0)
        return y + k.sum()

    program = capture.export(Function(function).eval(), arguments(), {}, None)
    found, outcomes = rewrite(program, ["head_layout"])
    args, again = arguments(), arguments()
    torch.testing.assert_close(found.module()(*args), function(*again))
    assert all(outcome.replaced for outcome in outcomes)  # of the program without writes


def test_in_an_engine():
    model, args = Function(with_rope).eval(), arguments()
    compiled = bridge.compile(model, args, target="sm86")
    assert compiled.plugin_counts() == {"rope": 1, "window_attention": 1}
    assert any(row["what"].endswith('layout "bshd"') for row in bridge.report(compiled).passes)


@pytest.mark.gpu
@pytest.mark.parametrize("function", [plain, with_rope, permuted])
def test_an_engine_gives_what_eager_gives(function):
    args = tuple(each.cuda() for each in arguments(tokens=40))
    model = Function(function).eval()
    torch.testing.assert_close(bridge.compile(model, args)(*args), model(*args), rtol=1e-3, atol=1e-3)
