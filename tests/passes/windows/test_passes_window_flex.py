"""FlexAttention with sliding windows, which TensorRT has no layers for."""

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from window_programs import GROUPS, HEAD_DIM, HEADS, each_of, export

from bridge.graph import capture
from bridge.passes import rewrite

LENGTH = 160
generator = torch.Generator().manual_seed(0)
ARGS = tuple(torch.randn(1, heads, LENGTH, HEAD_DIM, generator=generator) for heads in (HEADS, GROUPS, GROUPS))
WINDOW = "bridge.window_attention, window_left=4, window_right=0, scale=0.353553"


def window(b, h, q, k):
    return (k <= q) & (k > q - 5)


def causal(b, h, q, k):
    return k <= q


def capped(score, b, h, q, k):
    return 20.0 * torch.tanh(score / 20.0)


def blocks(mask_mod, shape=LENGTH):
    return create_block_mask(mask_mod, None, None, shape, shape, device="cpu")


def flex(mask_mod=None, score_mod=None, held=None):
    """Attention whose BlockMask is made in each call, of mask_mod, or held; or without one."""

    def attend(q, k, v):
        mask = held if mask_mod is None else blocks(mask_mod, q.shape[2])
        return flex_attention(q, k, v, block_mask=mask, score_mod=score_mod, enable_gqa=True)

    return attend


# Attention, and what replaces it.
FOUND = [
    (flex(window, capped), f"{WINDOW}, softcap=20"),
    (flex(held=blocks(window)), WINDOW),
    (flex(held=blocks(causal)), "scaled_dot_product_attention, is_causal=True, without its mask"),
    (flex(), "scaled_dot_product_attention, is_causal=False, without its mask"),
    (flex(score_mod=capped), "bridge.window_attention, window_left=-1, window_right=-1, scale=0.353553, softcap=20"),
]


def test_attention_is_found():
    attend = each_of([attend for attend, _ in FOUND])
    found, outcomes = rewrite(export(attend, False, ARGS), ["window_attention"])
    assert [outcome.what for outcome in outcomes] == [what for _, what in FOUND]
    assert len([node for node in found.graph.nodes if node.op == "call_function"]) == len(FOUND)
    torch.testing.assert_close(found.module()(*ARGS), attend(*ARGS), rtol=1e-5, atol=1e-5)


DOCUMENTS = torch.arange(3).repeat_interleave(torch.tensor([40, 70, 50]))
CHUNKS = torch.arange(LENGTH) // 50


def _in_chunks(b, h, q, k):
    return window(b, h, q, k) & (CHUNKS[q] == CHUNKS[k])


def test_tables_that_mask_mod_looks_up():
    """One that counts chunks is read as a formula."""
    attend = flex(held=blocks(_in_chunks))
    found, (outcome,) = rewrite(export(attend, False, ARGS), ["window_attention"])
    assert outcome.what == f"{WINDOW}, with key_ranges"
    torch.testing.assert_close(found.module()(*ARGS), attend(*ARGS), rtol=1e-5, atol=1e-5)


def _in_documents(b, h, q, k):
    return window(b, h, q, k) & (DOCUMENTS[q] == DOCUMENTS[k])


def _biased(score, b, h, q, k):
    return score + (q - k)


def _other_blocks(mask_mod):
    """Blocks of a mask that shows each query's own block alone."""
    own = blocks(lambda b, h, q, k: q // 128 == k // 128)
    tensors = own.kv_num_blocks, own.kv_indices, own.full_kv_num_blocks, own.full_kv_indices
    return BlockMask.from_kv_blocks(*tensors, mask_mod=mask_mod, seq_lengths=(LENGTH, LENGTH))


NEAR_MISSES = [
    (flex(held=blocks(_in_documents)), "depends on the values of"),
    (flex(None, _biased), "score_mod is more than a soft cap"),
    (flex(held=_other_blocks(window)), "not those of its mask_mod"),
    (flex(held=_other_blocks(None)), "its mask_mod shows all keys, and its blocks perhaps fewer"),
]


def test_near_misses_are_left_alone():
    program = export(each_of([attend for attend, _ in NEAR_MISSES]), False, ARGS)
    found, outcomes = rewrite(program, ["window_attention"])
    assert found is program and len(outcomes) == len(NEAR_MISSES)
    for outcome, (_, reason) in zip(outcomes, NEAR_MISSES, strict=True):
        assert not outcome.replaced and reason in outcome.what, outcome


class BlocksAsInput(torch.nn.Module):
    def forward(self, q, k, v, counts, indices):
        mask = BlockMask.from_kv_blocks(counts, indices, mask_mod=window, seq_lengths=(LENGTH, LENGTH))
        return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


def test_blocks_that_are_inputs():
    mask = blocks(window)
    program = capture.export(BlocksAsInput().eval(), (*ARGS, mask.kv_num_blocks, mask.kv_indices), {}, None)
    found, (outcome,) = rewrite(program, ["window_attention"])
    assert found is program and "depend on inputs" in outcome.what
