"""Models that select blocks of keys, in engines."""

import pytest
import torch
import torch.nn.functional as F
from oracle import ahead, assert_same, interpreted
from torch import nn
from torch.export import Dim
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import bridge

generator = torch.Generator().manual_seed(0)


class Selecting(nn.Module):
    """Each query attends to the blocks whose mean keys score best for it, its own among them."""

    def __init__(self, width=32, heads=4, groups=2, block=16, count=3):
        super().__init__()
        self.heads, self.groups, self.block, self.count = heads, groups, block, count
        self.head_dim = width // heads
        self.joint = nn.Linear(width, width + 2 * groups * self.head_dim)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.projected(x)
        position = torch.arange(x.shape[1], device=x.device)
        scores = self.scores(q, k, position // self.block)
        selected = scores >= scores.topk(self.count, -1).values[..., -1:]
        of_heads = selected.repeat_interleave(self.heads // self.groups, 1)
        seen = of_heads.repeat_interleave(self.block, -1) & (position[:, None] >= position)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return self.out(out.transpose(1, 2).flatten(2))

    def projected(self, x):
        counts = (self.heads, self.groups, self.groups)
        parts = self.joint(x).split([n * self.head_dim for n in counts], -1)
        return [p.unflatten(-1, (n, self.head_dim)).transpose(1, 2) for p, n in zip(parts, counts, strict=True)]

    def scores(self, q, k, own):
        """[B, G, S, key blocks]"""
        means = k.unflatten(2, (-1, self.block)).mean(3)
        scores = (q.unflatten(1, (self.groups, -1)) @ means[:, :, None].transpose(-1, -2)).mean(2)
        block = torch.arange(means.shape[2], device=q.device)
        return scores.masked_fill(block > own[:, None], -1e4).masked_fill(block == own[:, None], 1e4)

    def clear(self, x):
        """[B, S]: of which queries the selection does not hang on a rounding."""
        q, k, _ = self.projected(x)
        scores = self.scores(q, k, torch.arange(x.shape[1], device=x.device) // self.block)
        *_, last, first_left = scores.float().topk(self.count + 1, -1).values.unbind(-1)
        return ((last - first_left > 1e-2) | (first_left <= -1e4)).all(1)


def test_blocks_that_a_model_selects_reach_the_plugin():
    model, x = Selecting().eval(), torch.randn(2, 96, 32, generator=generator)
    with interpreted(engines=True), torch.no_grad():
        compiled = ahead(model, (x,))
        assert compiled.plugin_counts() == {"block_sparse_attention": 1}
        assert_same(compiled(x), model(x))


class Near(nn.Module):
    """Blocks next to a query's own, and the first."""

    def forward(self, q, k, v):
        query, key = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
        seen = ((query // 16 - key // 16).abs() <= 1) | (key < 16)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def test_blocks_by_their_numbers_are_computed_in_the_engine():
    model, length = Near().eval(), Dim("length", min=1, max=512)
    x = torch.randn(1, 2, 100, 32, generator=generator)
    with interpreted(engines=True), torch.no_grad():
        compiled = ahead(model, (x, x, x), {name: {2: length} for name in "qkv"})
        assert compiled.plugin_counts() == {"block_sparse_attention": 1}
        for size in (1, 17, 300):
            x = torch.randn(1, 2, size, 32, generator=generator)
            assert_same(compiled(x, x, x), model(x, x, x))


class Flex(nn.Module):
    """FlexAttention over blocks that are an input."""

    def forward(self, q, k, v, mask):
        def mask_mod(b, h, i, j):
            return mask[b, h, i // 16, j // 16] & (j <= i)

        blocks = create_block_mask(mask_mod, 2, 3, 64, 64, "cpu", 16)
        return flex_attention(q, k, v, block_mask=blocks)


def test_flex_attention_over_computed_blocks():
    x = torch.randn(2, 3, 64, 32, generator=generator)
    mask = torch.rand(2, 3, 4, 4, generator=generator) < 0.5
    with interpreted(engines=True), torch.no_grad():
        compiled = ahead(Flex().eval(), (x, x, x, mask))
        assert compiled.plugin_counts() == {"block_sparse_attention": 1}
        assert_same(compiled(x, x, x, mask), Flex()(x, x, x, mask))


@pytest.mark.gpu(engines=True)
@torch.no_grad()
def test_engine_against_eager():
    model = Selecting(256, 8, 2, 32, 4).eval().cuda().half()
    x = torch.randn(2, 256, 256, generator=generator).half().cuda()
    compiled = bridge.compile(model, (x,))
    assert compiled.plugin_counts() == {"block_sparse_attention": 1}
    expected, actual, clear = model(x).float(), compiled(x).float(), model.clear(x)
    assert clear.float().mean() > 0.8
    assert (actual - expected)[clear].abs().max() <= 2e-2 * expected.abs().max()
