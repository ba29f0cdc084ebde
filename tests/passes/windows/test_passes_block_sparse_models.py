"""Models that select blocks of keys, in engines."""

import pytest
import torch
import torch.nn.functional as F
from oracle import ahead, assert_same, interpreted
from torch import nn

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
        counts = (self.heads, self.groups, self.groups)
        parts = self.joint(x).split([n * self.head_dim for n in counts], -1)
        q, k, v = (p.unflatten(-1, (n, self.head_dim)).transpose(1, 2) for p, n in zip(parts, counts, strict=True))
        position = torch.arange(x.shape[1], device=x.device)
        selected = self.selected(q, k, position // self.block)
        of_heads = selected.repeat_interleave(self.heads // self.groups, 1)
        seen = of_heads.repeat_interleave(self.block, -1) & (position[:, None] >= position)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return self.out(out.transpose(1, 2).flatten(2))

    def selected(self, q, k, own):
        """[B, G, S, key blocks]"""
        means = k.unflatten(2, (-1, self.block)).mean(3)
        scores = (q.unflatten(1, (self.groups, -1)) @ means[:, :, None].transpose(-1, -2)).mean(2)
        block = torch.arange(means.shape[2], device=q.device)
        scores = scores.masked_fill(block > own[:, None], -1e4).masked_fill(block == own[:, None], 1e4)
        return scores >= scores.topk(self.count, -1).values[..., -1:]


def test_blocks_that_a_model_selects_reach_the_plugin():
    model, x = Selecting().eval(), torch.randn(2, 96, 32, generator=generator)
    with interpreted(engines=True), torch.no_grad():
        compiled = ahead(model, (x,))
        assert compiled.plugin_counts() == {"block_sparse_attention": 1}
        assert_same(compiled(x), model(x))


@pytest.mark.gpu(engines=True)
@torch.no_grad()
def test_engine_against_eager():
    model = Selecting(256, 8, 2, 32, 4).eval().cuda().half()
    x = torch.randn(2, 256, 256, generator=generator).half().cuda()
    compiled = bridge.compile(model, (x,))
    assert compiled.plugin_counts() == {"block_sparse_attention": 1}
    expected, actual = model(x).float(), compiled(x).float()
    assert (actual - expected).abs().max() <= 2e-2 * expected.abs().max()
