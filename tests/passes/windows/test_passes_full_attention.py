"""Long attention without a window: what is taken, for which GPUs by default, and what stays TensorRT's."""

import pytest
import torch
import torch.nn.functional as F
from programs import Function
from torch.export import Dim
from window_programs import SDPA, WINDOW, calls, positions, repeated

import bridge
from bridge.graph import capture
from bridge.passes import full_attention, pass_names, rewrite

LONG = full_attention.LONG
NAMES = ["full_attention"]


def arguments(length=LONG, keys=None, dtype=torch.float16, head_dim=8, heads=(4, 2)):
    """q [1, H, S, D], k and v [1, G, T, D]."""
    generator = torch.Generator().manual_seed(length)
    sizes = [(heads[0], length), *[(heads[1], keys or length)] * 2]
    return tuple(torch.randn(1, count, extent, head_dim, generator=generator).to(dtype) for count, extent in sizes)


def exported(function, args, dims=None):
    return capture.export(Function(function).eval(), args, {}, {"args": (dims,) * 3} if dims else None)


def plain(q, k, v, **settings):
    return F.scaled_dot_product_attention(q, repeated(k), repeated(v), **settings)


def grouped(q, k, v, **settings):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **settings)


@pytest.mark.parametrize("function", [plain, grouped])
@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"scale": 0.3}, {"is_causal": True, "scale": 0.7}])
def test_attention_to_all_keys_or_to_all_earlier_ones(function, settings):
    args = arguments()
    program = exported(lambda q, k, v: function(q, k, v, **settings), args)
    found, (outcome,) = rewrite(program, NAMES)
    (call,) = calls(found)
    assert not calls(found, SDPA)
    causal = settings.get("is_causal", False)
    assert call.kwargs["window_left"] == -1 and call.kwargs["window_right"] == (0 if causal else -1)
    assert call.kwargs.get("scale") == settings.get("scale")
    assert call.args[1].meta["val"].shape[1] == 2  # not repeated
    assert outcome.what == f"bridge.window_attention{', causal' if causal else ''}, without a window"
    torch.testing.assert_close(found.module()(*args), function(*args, **settings), rtol=2e-3, atol=2e-3)


def test_lengths_are_those_of_the_example():
    dims = {2: Dim("length", min=1, max=2 * LONG)}
    program, args = exported(grouped, arguments(), dims), arguments(33)
    found, _ = rewrite(program, NAMES)
    assert len(calls(found)) == 1
    torch.testing.assert_close(found.module()(*args), grouped(*args), rtol=2e-3, atol=2e-3)
    program = exported(grouped, arguments(LONG - 1), dims)
    assert rewrite(program, NAMES) == (program, [])


def test_fewer_queries_than_keys_see_all():
    args = arguments(5, LONG)
    found, _ = rewrite(exported(grouped, args), NAMES)
    torch.testing.assert_close(found.module()(*args), grouped(*args), rtol=2e-3, atol=2e-3)
    assert len(calls(found)) == 1


def _masked(q, k, v):
    return grouped(q, k, v, attn_mask=torch.ones(q.shape[2], k.shape[2], dtype=torch.bool))


STAYS = {
    "float32": (grouped, arguments(dtype=torch.float32)),
    "a width without vectors": (grouped, arguments(head_dim=12)),
    "short for wide heads": (grouped, arguments(head_dim=136)),
    "short": (grouped, arguments(LONG - 1)),
    "fewer queries, causal at the begin": (lambda q, k, v: grouped(q, k, v, is_causal=True), arguments(5, LONG)),
    "a mask": (_masked, arguments()),
    "dropout": (lambda q, k, v: grouped(q, k, v, dropout_p=0.5), arguments()),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_stays(case):
    program = exported(*STAYS[case])
    found, outcomes = rewrite(program, NAMES)
    assert found is program and not any(outcome.replaced for outcome in outcomes)


def test_heads_too_wide_stay_with_the_reason():
    program = exported(grouped, arguments(full_attention.LONG_OF_WIDE, head_dim=264, heads=(2, 1)))
    found, (outcome,) = rewrite(program, NAMES)
    assert found is program and "heads are 264 wide, values 264" in outcome.what


def test_values_of_another_width_stay_with_the_reason():
    q, k, v = arguments(head_dim=128)
    program = exported(grouped, (q, k, v[..., :64]))
    found, (outcome,) = rewrite(program, NAMES)
    assert found is program and "heads are 128 wide, values 64" in outcome.what


def test_a_causal_mask_goes_first():
    def function(q, k, v):
        query, key = positions(q, k)
        return F.scaled_dot_product_attention(q, repeated(k), repeated(v), attn_mask=key <= query)

    args = arguments()
    found, outcomes = rewrite(exported(function, args), [*NAMES, "window_attention"])
    assert [outcome.replaced for outcome in outcomes] == [True, True] and not calls(found, SDPA)
    (call,) = calls(found, WINDOW)
    assert (call.kwargs["window_left"], call.kwargs["window_right"]) == (-1, 0)
    torch.testing.assert_close(found.module()(*args), function(*args), rtol=2e-3, atol=2e-3)


def test_it_is_the_default_where_it_was_measured():
    assert "full_attention" in pass_names(True, "tensorrt_rtx", "sm90")
    for flavour, target in ((None, None), ("tensorrt_rtx", "sm86"), ("tensorrt_rtx", "sm120"), ("tensorrt", "sm90")):
        assert "full_attention" not in pass_names(True, flavour, target)
    assert pass_names(NAMES, "tensorrt_rtx", "sm86") == ("full_attention",)
    assert "full_attention" not in pass_names(False, "tensorrt_rtx", "sm90")


def test_in_an_engine_either_lowering_computes_it():
    model, args = Function(lambda q, k, v: grouped(q, k, v, is_causal=True)).eval(), arguments(head_dim=16)
    plugin, native = (
        bridge.compile(model, args, target="sm86", passes=NAMES, lowering=lowering) for lowering in ("auto", "native")
    )
    assert plugin.plugin_counts() == {"window_attention": 1}
    assert native.plugin_counts() == {} and len(native.layers) >= 1
    assert bridge.compile(model, args, target="sm86").plugin_counts() == {}


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_an_engine_gives_what_eager_gives(causal):
    model = Function(lambda q, k, v: grouped(q, k, v, is_causal=causal)).eval()
    args = tuple(tensor.cuda() for tensor in arguments(head_dim=64, heads=(8, 2)))
    compiled = bridge.compile(model, args, passes=NAMES)
    assert compiled.plugin_counts() == {"window_attention": 1}
    torch.testing.assert_close(compiled(*args), model(*args), rtol=2e-2, atol=2e-3)
