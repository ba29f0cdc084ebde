"""Attention whose mask is made of a tensor with an element for each block."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from window_programs import BATCH, GROUPS, HEADS, Function, arguments, fused, repeated

from bridge.graph import capture
from bridge.passes import rewrite

BOTH = ["block_sparse_attention", "window_attention"]
OP = torch.ops.bridge.block_sparse_attention.default
LENGTH, BLOCK = 64, 16
BLOCKS = LENGTH // BLOCK
generator = torch.Generator().manual_seed(0)
Q, K, V = arguments(2, LENGTH)
MASK = torch.rand(2, HEADS, BLOCKS, BLOCKS, generator=generator) < 0.6
MASK[0, 1, 2] = False
OF = torch.arange(LENGTH) // BLOCK
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
TEXT = "bridge.block_sparse_attention, query_block=16, key_block=16"


def wide(mask, size=BLOCK):
    return mask.repeat_interleave(size, -2).repeat_interleave(size, -1)


def expanded(mask):
    return mask[..., :, None, :, None].expand(-1, -1, -1, BLOCK, -1, BLOCK).reshape(2, HEADS, LENGTH, LENGTH)


def positions():
    return torch.arange(LENGTH)[:, None], torch.arange(LENGTH)


def looked_up(b, h, q, k, mask):
    return mask[b, h, q // BLOCK, k // BLOCK]


def flex(visible, size=BLOCK, softcap=0.0, **blocks):
    """Attention whose BlockMask is made in each call of visible(b, h, q, k, mask), or of the tensors in `blocks`."""

    def attend(q, k, v, mask):
        def mask_mod(b, h, i, j):
            return visible(b, h, i, j, mask)

        def score_mod(score, b, h, i, j):
            return softcap * torch.tanh(score / softcap)

        sizes = {"BLOCK_SIZE": size}
        if blocks:
            block_mask = BlockMask.from_kv_blocks(**blocks, mask_mod=mask_mod, seq_lengths=(LENGTH, LENGTH), **sizes)
        else:
            block_mask = create_block_mask(mask_mod, 2, HEADS, LENGTH, LENGTH, device="cpu", **sizes)
        score = score_mod if softcap else None
        return flex_attention(q, k, v, block_mask=block_mask, score_mod=score, enable_gqa=True)

    return attend


def causal_pairs():
    query, key = positions()
    return query >= key


# Of q, k, v and a mask of blocks: attention, and what replaces it.
FOUND = {
    "repeated": (lambda q, k, v, m: fused(q, k, v, wide(m)), TEXT),
    "of narrow values": (lambda q, k, v, m: fused(q, k, v[..., :5], wide(m)), TEXT),
    "expanded": (lambda q, k, v, m: fused(q, k, v, expanded(m)), TEXT),
    "looked up": (lambda q, k, v, m: fused(q, k, v, m[:, :, OF[:, None], OF]), TEXT),
    "causal": (lambda q, k, v, m: fused(q, k, v, wide(m) & causal_pairs()), f"{TEXT}, causal=True"),
    "scaled": (lambda q, k, v, m: fused(q, k, v, wide(m), scale=0.5), f"{TEXT}, scale=0.5"),
    "hidden": (lambda q, k, v, m: fused(q, k, v, ~wide(m)), TEXT),
    "of numbers": (lambda q, k, v, m: fused(q, k, v, wide(m.long() * 3) != 0), TEXT),
    "of one batch element": (lambda q, k, v, m: fused(q, k, v, wide(m[1:])), TEXT),
    "of one head": (lambda q, k, v, m: fused(q, k, v, wide(m[:, 2])[:, None]), TEXT),
    "of groups of heads": (
        lambda q, k, v, m: fused(q, k, v, wide(m[:, :GROUPS]).repeat_interleave(HEADS // GROUPS, 1)),
        TEXT,
    ),
    "of queries": (
        lambda q, k, v, m: fused(q, k, v, m.repeat_interleave(BLOCK, -1)[:, :, OF]),
        TEXT,
    ),
    "shorter": (
        lambda q, k, v, m: fused(q[:, :, :57], k[:, :, :57], v[:, :, :57], wide(m)[..., :57, :57]),
        TEXT,
    ),
    "too long": (
        lambda q, k, v, m: fused(q[:, :, :30], k[:, :, :30], v[:, :, :30], wide(m)[..., :30, :30]),
        TEXT,
    ),
    "with an end": (
        lambda q, k, v, m: fused(q, k, v, wide(m) & (positions()[1] < m.sum((1, 2, 3))[:, None, None, None])),
        f"{TEXT}, with key_ranges",
    ),
    "looked up by mask_mod": (flex(looked_up), f"{TEXT}, scale=0.353553"),
    "and causal": (
        flex(lambda b, h, q, k, m: looked_up(b, h, q, k, m) & (k <= q), softcap=9.0),
        f"{TEXT}, causal=True, scale=0.353553, softcap=9",
    ),
    "blocks of mask_mod, larger in its BlockMask": (flex(looked_up, 32), f"{TEXT}, scale=0.353553"),
}


def neighbours(q, k):
    """Of cubes of 16 tokens in a video of 2 x 2 x 1 cubes: those that differ along one axis at most."""
    (a, b), (c, d) = ((each // 32, each // 16 % 2) for each in (q, k))
    return ((a - c).abs() + (b - d).abs()) <= 1


def window_and_first(q, k):
    """Blocks next to a query's own, and a first one for all."""
    return ((q // BLOCK - k // BLOCK).abs() <= 1) | (k < BLOCK) | (q < BLOCK)


def masked_out(q, k, v, seen):
    logits = torch.matmul(q, repeated(k).transpose(2, 3)) * 0.25
    return torch.softmax(logits.masked_fill(~seen, -torch.inf), -1) @ repeated(v)


HELD = wide(MASK[0, 0] | torch.eye(BLOCKS, dtype=torch.bool))
HELD_BLOCKS = MASK[:1, :1]
ARITHMETIC = {
    "neighbours": (lambda q, k, v, m: fused(q, k, v, neighbours(*positions())), TEXT),
    "a window and the first": (lambda q, k, v, m: fused(q, k, v, window_and_first(*positions())), TEXT),
    "causal neighbours": (
        lambda q, k, v, m: fused(q, k, v, neighbours(*positions()) & causal_pairs()),
        f"{TEXT}, causal=True",
    ),
    "written out": (
        lambda q, k, v, m: masked_out(q, k, v, window_and_first(*positions())),
        f"{TEXT}, scale=0.25",
    ),
    "of keys of another size": (
        lambda q, k, v, m: fused(q, k, v, (positions()[0] // 7 + positions()[1] // 32) % 3 != 0),
        "bridge.block_sparse_attention, query_block=7, key_block=32",
    ),
    "held": (lambda q, k, v, m: fused(q, k, v, HELD), TEXT),
    "held, and causal": (lambda q, k, v, m: fused(q, k, v, HELD & causal_pairs()), f"{TEXT}, causal=True"),
    "mask_mod": (flex(lambda b, h, q, k, m: neighbours(q, k)), f"{TEXT}, scale=0.353553"),
    "mask_mod and a BlockMask that are held": (
        lambda q, k, v, m: flex_attention(q, k, v, block_mask=HELD_MASK, enable_gqa=True),
        f"{TEXT}, scale=0.353553",
    ),
    "mask_mod that looks up, and a BlockMask that are held": (
        lambda q, k, v, m: flex_attention(q, k, v, block_mask=HELD_LOOKED_UP, enable_gqa=True),
        f"{TEXT}, causal=True, scale=0.353553",
    ),
}
HELD_MASK = create_block_mask(lambda b, h, q, k: neighbours(q, k), None, None, LENGTH, LENGTH, "cpu", 32)
HELD_LOOKED_UP = create_block_mask(
    lambda b, h, q, k: HELD_BLOCKS[0, 0, q // BLOCK, k // BLOCK] & (k <= q), None, None, LENGTH, LENGTH, "cpu", BLOCK
)
FOUND |= ARITHMETIC


@pytest.mark.parametrize("name", FOUND)
def test_attention_is_found(name):
    function, text = FOUND[name]
    program = capture.export(Function(function).eval(), (Q, K, V, MASK), {}, None)
    found, outcomes = rewrite(program, BOTH)
    assert [(outcome.name, outcome.replaced) for outcome in outcomes] == [("block_sparse_attention", True)]
    assert outcomes[0].what == text
    assert not any(tuple(node.meta["val"].shape[-2:]) == (LENGTH, LENGTH) for node in _tensors(found))
    torch.testing.assert_close(found.module()(Q, K, V, MASK), function(Q, K, V, MASK), rtol=1e-5, atol=1e-5)


def _tensors(program):
    nodes = program.graph.find_nodes(op="call_function", target=OP)
    assert len(nodes) == 1
    made = [node for node in program.graph.nodes if node.op == "call_function"]
    return [node for node in made if isinstance(node.meta["val"], torch.Tensor)]


def test_for_every_length():
    blocks = Dim("blocks", min=1, max=8)
    tokens = {0: BATCH, 2: BLOCK * blocks}
    shapes = {"args": (tokens, tokens, tokens, {0: BATCH, 2: blocks, 3: blocks})}

    def attend(q, k, v, mask):
        position = torch.arange(q.shape[2])
        seen = wide(mask) & (position[:, None] >= position)
        return fused(q, k, v, seen), fused(q, k, v, wide(mask))

    program = capture.export(Function(attend).eval(), (Q, K, V, MASK), {}, shapes)
    found, outcomes = rewrite(program, BOTH)
    assert [outcome.what for outcome in outcomes] == [f"{TEXT}, causal=True", TEXT]
    module = found.module(check_guards=False)
    for batch, count in ((1, 1), (3, 5)):
        args = arguments(batch, BLOCK * count)
        mask = torch.rand(batch, HEADS, count, count, generator=generator) < 0.6
        for ours, theirs in zip(module(*args, mask), attend(*args, mask), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def _own(blocks):
    return {
        "kv_num_blocks": torch.ones(1, 1, blocks, dtype=torch.int32),
        "kv_indices": torch.arange(blocks, dtype=torch.int32).view(1, 1, blocks, 1).expand(-1, -1, -1, blocks),
    }


def _written_out(q, k, v, mask):
    logits = torch.matmul(q, repeated(k).transpose(2, 3)) * 0.25
    return torch.softmax(logits.masked_fill(~wide(mask), -torch.inf), -1) @ repeated(v)


NEAR_MISSES = {
    "narrow blocks": (lambda q, k, v, m: fused(q, k, v, wide(wide(m, 2), 8)), None),
    "blocks of 8": (lambda q, k, v, m: fused(q, k, v, wide(m.repeat(1, 1, 2, 2), 8)), None),
    "a mask of pairs": (lambda q, k, v, m: fused(q, k, v, m.repeat(1, 1, BLOCK, BLOCK)), None),
    "turned": (lambda q, k, v, m: fused(q, k, v, wide(m).transpose(2, 3)), None),
    "or a window": (
        lambda q, k, v, m: fused(q, k, v, wide(m) | (positions()[0] - positions()[1] < 3) & causal_pairs()),
        None,
    ),
    "and a window": (
        lambda q, k, v, m: fused(q, k, v, wide(m) & (positions()[0] - positions()[1] < 3) & causal_pairs()),
        "hides more than blocks, later keys",
    ),
    "and other blocks": (lambda q, k, v, m: fused(q, k, v, wide(m) & wide(m.flip(0))), "hides more than blocks"),
    "numbers that are added": (
        lambda q, k, v, m: fused(q, k, v, torch.where(wide(m), 0.0, -torch.inf)),
        "may hide all keys of a query",
    ),
    "written out": (_written_out, "may hide all keys of a query"),
    "other blocks that are held": (
        flex(lambda b, h, q, k, m: neighbours(q, k), **_own(BLOCKS)),
        "are not those of its mask_mod",
    ),
    "shifted": (lambda q, k, v, m: fused(q, k, v, neighbours(positions()[0] + 5, positions()[1])), None),
    "held pairs": (lambda q, k, v, m: fused(q, k, v, HELD.roll(3, 1)), None),
    "constant blocks": (flex(looked_up, **_own(BLOCKS)), "are constants, and not made of its mask"),
    "too few blocks": (lambda q, k, v, m: fused(q, k, v, wide(m[..., :1].expand(-1, -1, -1, 4))), None),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_are_left_alone(name):
    function, reason = NEAR_MISSES[name]
    program = capture.export(Function(function).eval(), (Q, K, V, MASK), {}, None)
    found, outcomes = rewrite(program, BOTH)
    ours = [outcome for outcome in outcomes if outcome.name == "block_sparse_attention"]
    assert found is program and len(ours) == (reason is not None)
    assert all(not outcome.replaced and reason in outcome.what for outcome in ours), outcomes


class BlocksAsInput(nn.Module):
    def forward(self, q, k, v, mask, counts, indices):
        blocks = {"kv_num_blocks": counts, "kv_indices": indices}
        return flex(looked_up, **blocks)(q, k, v, mask)


def test_blocks_that_are_other_inputs():
    given = (Q, K, V, MASK, *_own(BLOCKS).values())
    found, outcomes = rewrite(capture.export(BlocksAsInput().eval(), given, {}, None), BOTH)
    assert "inputs that its mask_mod does not look up" in outcomes[0].what
    assert not found.graph.find_nodes(op="call_function", target=OP)
