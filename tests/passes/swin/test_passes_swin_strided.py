"""Windows whose tokens are strided in a sequence, as Hiera's, are a map's; what resembles them stays."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.functional import scaled_dot_product_attention

from bridge.passes import rewrite

HEADS, TOKENS, WINDOWS, CHANNELS = 2, 6, 5, 8
LENGTH, WIDTH = TOKENS * WINDOWS, HEADS * CHANNELS
TAKEN = ["bridge.swin_attention, heads=2, window=6x1"]


class Hiera(nn.Module):
    """Its attention in mask units, in steps that tests replace."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def split(self, qkv):
        return qkv.reshape(-1, TOKENS, WINDOWS, 3, HEADS, CHANNELS).permute(3, 0, 4, 2, 1, 5).unbind(0)

    def attend(self, q, k, v):
        return scaled_dot_product_attention(q, k, v, scale=0.5)

    def join(self, x):
        return x.transpose(1, 3).reshape(-1, LENGTH, WIDTH)

    def forward(self, x):
        return self.proj(self.join(self.attend(*self.split(self.qkv(x)))))


CASES = {"as it is": (Hiera, TAKEN)}


def case(*whats):
    """A layer with one step replaced: the function's. whats: what the pass says of it."""

    def add(function):
        name, step = function.__name__, function.__name__.partition("__")[0]
        CASES[name] = (type(name, (Hiera,), {step: function}), list(whats))
        return function

    return add


@case(*TAKEN)
def attend__written_out(self, q, k, v):
    return ((q * 0.3) @ k.transpose(-1, -2)).softmax(-1) @ v


@case(*TAKEN)
def split__with_heads_before_the_three(self, qkv):
    return qkv.reshape(-1, TOKENS, WINDOWS, HEADS, 3, CHANNELS).permute(4, 0, 3, 2, 1, 5).unbind(0)


@case(*TAKEN)
def join__by_a_permutation(self, x):
    return x.permute(0, 3, 2, 1, 4).flatten(3).flatten(1, 2)


@case()
def split__of_windows_in_a_row(self, qkv):
    """No copy is spared: TensorRT's attention."""
    return qkv.reshape(-1, WINDOWS, TOKENS, 3, HEADS, CHANNELS).permute(3, 0, 4, 1, 2, 5).unbind(0)


@case()
def split__with_keys_first(self, qkv):
    q, k, v = Hiera.split(self, qkv)
    return k, q, v


@case()
def split__with_values_of_other_windows(self, qkv):
    q, k, v = Hiera.split(self, qkv)
    return q, k, v.flip(2)


@case()
def split__with_pooled_queries(self, qkv):
    q, k, v = Hiera.split(self, qkv)
    return q.unflatten(3, (2, TOKENS // 2)).amax(3).repeat(1, 1, 1, 2, 1), k, v


@case()
def split__of_channels_with_heads_last(self, qkv):
    return qkv.reshape(-1, TOKENS, WINDOWS, 3, CHANNELS, HEADS).permute(3, 0, 5, 2, 1, 4).unbind(0)


@case()
def attend__causally(self, q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=True)


@case("its queries, keys and values are not views of windows with channels last")
def attend__with_a_mask_of_windows(self, q, k, v):
    """Which, for [.., heads, T, T], is a bias of heads."""
    mask = torch.linspace(-3, 3, WINDOWS * TOKENS).view(WINDOWS, 1, TOKENS).expand(-1, TOKENS, -1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


@case()
def join__in_another_order(self, x):
    return x.permute(0, 2, 3, 1, 4).reshape(-1, LENGTH, WIDTH)


@case()
def join__with_heads_last(self, x):
    return x.permute(0, 3, 2, 4, 1).reshape(-1, LENGTH, WIDTH)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_strided_windows_and_near_misses(name):
    kind, whats = CASES[name]
    layer, x = kind().eval(), torch.randn(2, LENGTH, WIDTH)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))
    rewritten, outcomes = rewrite(program, ["swin_attention"])
    assert [outcome.what for outcome in outcomes] == whats
    replaced = sum("bridge.swin_attention" in str(node.target) for node in rewritten.graph.nodes)
    assert replaced == sum(outcome.replaced for outcome in outcomes) == len(whats if whats == TAKEN else [])
    for given in (x, torch.randn(3, LENGTH, WIDTH)):
        torch.testing.assert_close(rewritten.module()(given), layer(given), rtol=1e-4, atol=1e-5)


class Written(Hiera):
    def split(self, qkv):
        qkv[:, :1] *= 2
        return Hiera.split(self, qkv)


@torch.no_grad()
def test_writes_in_place_are_not_lost():
    layer, x = Written().eval(), torch.randn(2, LENGTH, WIDTH)
    rewritten, outcomes = rewrite(torch.export.export(layer, (x,)), ["swin_attention"])
    torch.testing.assert_close(rewritten.module()(x), layer(x), rtol=1e-4, atol=1e-5)
    assert [outcome.what for outcome in outcomes] in ([], TAKEN)
