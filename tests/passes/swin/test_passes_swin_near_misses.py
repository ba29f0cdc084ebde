"""What resembles a layer of Swin: replaced as far as it is proved, with the reason for the rest; right in any case."""

import pytest
import torch
from swin_layers import ADDED, CASES, CHANNELS, MAP, TAKEN, TOKENS, Layer
from torch.export import Dim
from unbiased_layers import ALL, Fused

from bridge.passes import rewrite


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_near_misses(name):
    kind, whats = ALL[name]
    layer, x = kind().eval(), torch.randn(2, 8, 12, CHANNELS)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))
    rewritten, outcomes = rewrite(program, ["swin_attention"])
    assert [outcome.what for outcome in outcomes] == whats
    replaced = sum(outcome.replaced for outcome in outcomes)
    assert replaced == sum(what.startswith(TAKEN) for what in whats)
    assert sum("bridge.swin_attention" in str(node.target) for node in rewritten.graph.nodes) == replaced
    for given in (x, torch.randn(3, 8, 12, CHANNELS)):
        torch.testing.assert_close(rewritten.module()(given), layer(given), rtol=1e-4, atol=1e-5)


def test_numbers_of_shift_masks():
    """They are what the op adds: -100, another number, or nothing."""
    for name, number in (("as it is", -100.0), ("masked__not_at_all", 0.0), ("shift_mask__of_another_number", -2.0)):
        layer, x = CASES[name][0]().eval(), torch.randn(2, 8, 12, CHANNELS)
        rewritten, _ = rewrite(torch.export.export(layer, (x,)), ["swin_attention"])
        (call,) = (node for node in rewritten.graph.nodes if "bridge.swin_attention" in str(node.target))
        assert call.kwargs["shift_mask"] == pytest.approx(number) and "mask" not in call.kwargs


class InPlace(Layer):
    """Writes to the windows, and to the bias of the projection, between the cut and the attention."""

    def cut(self, x):
        windows = Layer.cut(self, x)
        windows[:, :1] *= 2
        return windows


@torch.no_grad()
def test_writes_in_place_are_not_lost():
    layer, x = InPlace().eval(), torch.randn(2, 8, 12, CHANNELS)
    rewritten, outcomes = rewrite(torch.export.export(layer, (x,)), ["swin_attention"])
    assert [outcome.what for outcome in outcomes] == [TAKEN + ", with mask"]
    torch.testing.assert_close(rewritten.module()(x), layer(x), rtol=1e-4, atol=1e-5)


FUSED = [
    ({}, [MAP]),
    ({"scale": 0.5}, [MAP]),
    ({"attn_mask": torch.zeros(TOKENS, TOKENS)}, [MAP + ", with mask"]),
    ({"is_causal": True}, []),
    ({"attn_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()}, []),
    ({"attn_mask": torch.randn(1, 1, TOKENS, 1)}, [ADDED]),
]


@pytest.mark.parametrize(("settings", "whats"), FUSED)
@torch.no_grad()
def test_unbiased_attention_as_one_operator(settings, whats):
    layer, x = Fused(**settings).eval(), torch.randn(2, 8, 12, CHANNELS)
    rewritten, outcomes = rewrite(torch.export.export(layer, (x,)), ["swin_attention"])
    assert [outcome.what for outcome in outcomes] == whats
    torch.testing.assert_close(rewritten.module()(x), layer(x), rtol=1e-4, atol=1e-5)
