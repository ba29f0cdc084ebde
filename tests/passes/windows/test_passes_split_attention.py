"""Attention of each piece of a sequence is one bridge::window_attention, whose keys are those of the piece."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import nn
from torch.export import Dim
from torch.nn.functional import scaled_dot_product_attention

from bridge.passes import rewrite

HEADS, CHANNELS, LENGTHS = 2, 8, (5, 3, 1, 7)
TOKENS = sum(LENGTHS)
PASS = ["split_attention"]
TAKEN = ["bridge.window_attention of 4 pieces of 1 to 7 tokens"]


class Pieces(nn.Module):
    """As vision encoders of transformers, in steps that tests replace."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(HEADS * CHANNELS, 3 * HEADS * CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)

    def heads(self, x):  # [tokens, heads, channels], as [1, heads, tokens, channels]
        qkv = self.qkv(x).reshape(TOKENS, 3, HEADS, CHANNELS).permute(1, 0, 2, 3).unbind(0)
        return [each.transpose(0, 1).unsqueeze(0) for each in qkv]

    def split(self, tensors):
        return zip(*(tensor.split(list(LENGTHS), dim=2) for tensor in tensors), strict=True)

    def attend(self, q, k, v):
        return scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).contiguous()

    def join(self, pieces):
        return torch.cat(pieces, 1)

    def forward(self, x):
        pieces = [self.attend(*piece) for piece in self.split(self.heads(x))]
        return self.join(pieces).reshape(TOKENS, -1)


CASES = {"as it is": (Pieces, TAKEN)}


def case(*whats):
    """A layer with one step replaced: the function's. whats: what the pass says of it."""

    def add(function):
        name, step = function.__name__, function.__name__.partition("__")[0]
        CASES[name] = (type(name, (Pieces,), {step: function}), list(whats))
        return function

    return add


@case(*TAKEN)
def heads__of_two_copies(self, x):
    """A batch, whose heads come first in memory."""
    return [torch.cat((each, each * 0.5)).contiguous() for each in Pieces.heads(self, x)]


@case("bridge.window_attention of 4 pieces of 4 tokens")
def split__in_equal_pieces(self, tensors):
    return zip(*(tensor.chunk(4, 2) for tensor in tensors), strict=True)


@case()
def split__of_keys_by_others(self, tensors):
    q, k, v = tensors
    others = [4, 4, 1, 7]
    return zip(q.split(list(LENGTHS), 2), k.split(others, 2), v.split(others, 2), strict=True)


@case()
def split__of_keys_in_reverse(self, tensors):
    q, k, v = (list(tensor.split(4, 2)) for tensor in tensors)
    return zip(q, k[::-1], v[::-1], strict=True)


@case()
def split__of_values_of_another(self, tensors):
    q, k, v = (list(tensor.split(4, 2)) for tensor in tensors)
    return zip(q, k, (v[0] * 2, *v[1:]), strict=True)


@case()
def split__of_channels(self, tensors):
    return zip(*(tensor.split(CHANNELS // 2, 3) for tensor in tensors), strict=True)


@case()
def attend__causally(self, q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


@case()
def attend__with_a_mask(self, q, k, v):
    mask = torch.ones(q.shape[2], k.shape[2]).tril()
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


@case()
def attend__by_each_at_its_own_scale(self, q, k, v):
    return scaled_dot_product_attention(q, k, v, scale=0.1 * q.shape[2]).transpose(1, 2)


@case()
def attend__and_normalise(self, q, k, v):
    """Each piece for itself: more than moves lies between the attention and the join."""
    return self.norm(scaled_dot_product_attention(q, k, v)).transpose(1, 2)


@case(*TAKEN)
def attend__with_heads_first(self, q, k, v):
    return scaled_dot_product_attention(q, k, v)


@case()
def attend__with_channels_first(self, q, k, v):
    return scaled_dot_product_attention(q, k, v).permute(0, 3, 2, 1)


@case()
def join__in_reverse(self, pieces):
    return torch.cat(pieces[::-1], 1)


@case()
def join__of_a_last_one_that_is_doubled(self, pieces):
    return torch.cat((*pieces[:-1], 2 * pieces[-1]), 1)


@case()
def join__and_more(self, pieces):
    return torch.cat(pieces, 1) + pieces[0].mean()


@case(*TAKEN)
def heads__written_to(self, x):
    """In place, between the projection and the split."""
    q, k, v = (each.contiguous() for each in Pieces.heads(self, x))
    k[:, :, :1].mul_(2)
    return q, k, v


CASES["attend__with_heads_first"][0].join = lambda self, pieces: torch.cat(pieces, 2)
CASES["attend__with_channels_first"][0].join = lambda self, pieces: torch.cat(pieces, 2)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_pieces_and_near_misses(name):
    kind, whats = CASES[name]
    layer, x = kind().eval(), torch.randn(TOKENS, HEADS * CHANNELS)
    rewritten, outcomes = rewrite(torch.export.export(layer, (x,)), PASS)
    assert [outcome.what for outcome in outcomes] == whats
    if any(outcome.replaced for outcome in outcomes):
        assert not any("scaled_dot_product" in str(node.target) for node in rewritten.graph.nodes)
    for given in (x, x.flip(0)):
        torch.testing.assert_close(rewritten.module()(given), layer(given), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layers_share_their_intervals_and_transpose_nothing():
    first, x = Pieces().eval(), torch.randn(TOKENS, HEADS * CHANNELS)
    model = nn.Sequential(first, Pieces()).eval()
    rewritten, outcomes = rewrite(torch.export.export(model, (x,)), PASS)
    assert [outcome.what for outcome in outcomes] == TAKEN * 2
    calls = [node for node in rewritten.graph.nodes if "window_attention" in str(node.target)]
    assert len({call.kwargs["key_ranges"] for call in calls}) == 1
    assert all(call.kwargs["layout"] == "bshd" for call in calls)
    with interpreted():
        compiled = ahead(model, (x,))
        assert_same(compiled(x), model(x), 1e-4, 1e-5)
    assert compiled.plugin_counts() == {"window_attention": 2}


@torch.no_grad()
def test_open_lengths_stay():
    """Pieces of a fixed length, of a sequence whose length is not known."""

    class Halves(Pieces):
        def heads(self, x):
            qkv = self.qkv(x).unflatten(1, (3, HEADS, CHANNELS)).permute(1, 0, 2, 3).unbind(0)
            return [each.transpose(0, 1).unsqueeze(0) for each in qkv]

        def split(self, tensors):
            return zip(*(tensor.split(tensor.shape[2] // 2, dim=2) for tensor in tensors), strict=True)

        def forward(self, x):
            return self.join([self.attend(*piece) for piece in self.split(self.heads(x))])

    layer, x = Halves().eval(), torch.randn(TOKENS, HEADS * CHANNELS)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: 2 * Dim("half", min=2, max=64)},))
    rewritten, outcomes = rewrite(program, PASS)
    assert not any(outcome.replaced for outcome in outcomes)
    torch.testing.assert_close(rewritten.module()(x), layer(x))
