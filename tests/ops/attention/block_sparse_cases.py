"""Masks of published models, calls that are refused, and checks of block_sparse_attention that hold on a GPU too."""

import pytest
import torch
from draw import seeded
from samples.block_sparse_attention import block_sparse_arguments

import bridge
from bridge.testing import cast


def attend(args, blocks, **attributes):
    """The op, of blocks of those numbers of queries and keys."""
    return bridge.block_sparse_attention(*args, query_block=blocks[0], key_block=blocks[1], **attributes)


def window_and_global(blocks, radius, first):
    """Longformer's pattern, by blocks: a band, and blocks that see all and are seen by all."""
    i, j = torch.arange(blocks)[:, None], torch.arange(blocks)
    return ((i - j).abs() <= radius) | (i < first) | (j < first)


def random_too(mask, count, seed=0):
    """BigBird's: some random blocks besides."""
    chosen = torch.rand(mask.shape, generator=seeded(seed)).topk(count, -1).indices
    return mask | torch.zeros_like(mask).scatter(-1, chosen, True)


def neighbourhoods(frames, height, width, radius):
    """[blocks, blocks] of a video cut into cubes: each sees those within `radius` of it along every axis."""
    axes = torch.meshgrid(*(torch.arange(n) for n in (frames, height, width)), indexing="ij")
    place = torch.stack([axis.flatten() for axis in axes], -1)
    return ((place[:, None] - place).abs() <= torch.tensor(radius)).all(-1)


def selected(q, k, count, key_block, groups):
    """[B, G, S, key blocks], as Native Sparse Attention selects: of each query, for the heads of a group, the blocks
    whose mean keys score best, the first and its own among them."""
    length = q.shape[2]
    means = k.unflatten(2, (-1, key_block)).mean(3)  # [B, G, key blocks, D]
    scores = (q.unflatten(1, (groups, -1)) @ means[:, :, None].transpose(-1, -2)).softmax(-1).sum(2)
    block, own = torch.arange(means.shape[2]), torch.arange(length)[:, None] // key_block
    scores = scores.masked_fill(block > own, -1.0).masked_fill((block == 0) | (block == own), 9.0)
    chosen = scores.topk(min(count, means.shape[2]), -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True) & (block <= own)


def _patterns():
    """name: (q, k, v, block_mask), blocks, causal. The lengths of the first two are no multiple of the block."""
    q, k, v, *_ = block_sparse_arguments(2, 250, 250, head_dim=32)
    band = window_and_global(16, 1, 1)
    yield "Longformer", (q, k, v, band[None, None]), (16, 16), False
    yield "BigBird", (q, k, v, torch.stack([random_too(band, 2, i) for i in range(4)])[None]), (16, 16), False
    video = neighbourhoods(3, 4, 4, (1, 1, 1))  # cubes of 8 tokens, or of 32
    cubes = block_sparse_arguments(1, 48 * 32, 48 * 32, (2, 2), 32)[:3]
    yield "video", (*cubes, video[None, None]), (32, 32), False
    q, k, v, *_ = block_sparse_arguments(2, 256, 256, (8, 2), 32)
    yield "selected", (q, k, v, selected(q, k, 4, 16, 2)), (1, 16), True


PATTERNS = [pytest.param(*rest, id=name) for name, *rest in _patterns()]


def check_without_keys(device="cpu", dtype=torch.float32, blocks=(16, 16), head_dim=16):
    """Results where every other block of queries sees none, and that of a mask without blocks."""
    q, k, v, mask, _ = block_sparse_arguments(2, 96, 96, head_dim=head_dim, blocks=blocks, density=1.0, seed=1)
    mask[:, :, 1::2] = False
    given = cast([q, k, v, mask], dtype, device)
    leaves = [t.requires_grad_() for t in given[:3]]
    result = attend(given, blocks)
    result.float().square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert (attend([*given[:3], torch.zeros_like(given[3])], blocks) == 0).all()
    empty = (torch.arange(96) // blocks[0] % 2 == 1).to(device)
    assert (result[:, :, empty] == 0).all() and (result[:, :, ~empty] != 0).any(-1).all()


def check_bad_numbers(bad, which, device="cpu", dtype=torch.float32, blocks=(16, 32), head_dim=16):
    """Blocks that a mask lacks have no effect, whatever they hold; those that it has do."""
    args = block_sparse_arguments(1, 200, 200, (2, 1), head_dim, blocks, seed=1)
    mask = args[3]
    mask[:, :, :, 2], mask[:, :, ::2, 2] = True, False
    args = cast(args, dtype, device)
    clean = attend(args, blocks).clone()
    args[which][:, :, 2 * blocks[1] : 3 * blocks[1]] = bad
    ours = attend(args, blocks)
    without = (torch.arange(200) // blocks[0] % 2 == 0).to(device)
    torch.testing.assert_close(ours[:, :, without], clean[:, :, without], rtol=0, atol=0)
    if bad != bad or which == 2:
        assert not ours[:, :, ~without].isfinite().any()


def valid(**changes):
    names = ("q", "k", "v", "block_mask")
    given = dict(zip(names, block_sparse_arguments(2, 37, 53, masks=2), strict=False))
    return {**given, "query_block": 16, "key_block": 16, **changes}


def mask_of(*shape, dtype=torch.bool):
    return torch.zeros(shape, dtype=dtype)


SHAPE = "block_mask has shape .{}.?, expected .2 or 1, a divisor of 4, 3, 4.: blocks of 16 queries and 16 keys"
BAD = [
    ("layout", valid(layout="bdsh"), r'layout is "bdsh", expected "bhsd" or "bshd"'),
    ("query block", valid(query_block=0), "query_block is 0, expected at least 1"),
    ("key block", valid(key_block=-16), "key_block is -16, expected at least 1"),
    ("scale", valid(scale=float("nan")), r"scale is nan, expected a finite number \(0 for"),
    ("softcap", valid(softcap=-1.0), r"softcap is -1(\.0)?, expected a finite number above 0"),
    ("rank", valid(q=torch.zeros(2, 5, 16)), "q, k and v must have 4 dimensions, got .2, 5, 16"),
    ("heads", valid(q=torch.zeros(2, 3, 37, 16)), "q has 3 heads, expected a multiple of the 2 of k"),
    ("wide", {n: torch.zeros(1, 1, 2, 264) for n in "qkv"} | {"block_mask": mask_of(1, 1, 1, 1)}, "head_dim is 264"),
    ("mask rank", valid(block_mask=mask_of(2, 3, 4)), SHAPE.format("2, 3, 4")),
    ("mask batch", valid(block_mask=mask_of(3, 1, 3, 4)), SHAPE.format("3, 1, 3, 4")),
    ("mask heads", valid(block_mask=mask_of(2, 3, 3, 4)), SHAPE.format("2, 3, 3, 4")),
    ("no masks", valid(block_mask=mask_of(2, 0, 3, 4)), SHAPE.format("2, 0, 3, 4")),
    ("query blocks", valid(block_mask=mask_of(2, 2, 2, 4)), SHAPE.format("2, 2, 2, 4")),
    ("key blocks", valid(block_mask=mask_of(2, 2, 3, 5)), SHAPE.format("2, 2, 3, 5")),
    ("ranges", valid(key_ranges=torch.zeros(2, 5, dtype=torch.int64)), r"key_ranges has shape .2, 5., expected"),
]  # fmt: skip
