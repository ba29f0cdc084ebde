import pytest
import torch
from block_sparse_cases import BAD, PATTERNS, attend, check_bad_numbers, check_without_keys, mask_of, selected, valid
from refusals import check_refused
from samples.block_sparse_attention import block_sparse_arguments
from torch.nn.functional import scaled_dot_product_attention

import bridge
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import check_export

OP = OPS["block_sparse_attention"]


def _dense(mask, queries, keys, query_block, key_block, causal=False):
    """[B or 1, M, S, T], by looking up each query's and each key's block."""
    rows, columns = torch.arange(queries) // query_block, torch.arange(keys) // key_block
    seen = mask.bool()[:, :, rows][..., columns]
    return seen & (columns.new_ones(queries, keys).bool().tril(keys - queries) if causal else True)


def _by_sdpa(args, query_block, key_block, causal=False, scale=None):
    q, k, v, mask, _ = args
    seen = _dense(mask, q.shape[2], k.shape[2], query_block, key_block, causal)
    seen = seen.repeat_interleave(q.shape[1] // seen.shape[1], 1)
    result = scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True, scale=scale)
    return result.masked_fill(~seen.any(-1, keepdim=True), 0.0)  # NaN there, by some of PyTorch's kernels


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masks", [1, 2, 4])
@pytest.mark.parametrize("blocks", [(16, 16), (1, 8), (7, 64), (100, 3)])
def test_is_attention_with_the_blocks_of_a_dense_mask(blocks, masks, causal):
    args = block_sparse_arguments(2, 37, 53, blocks=blocks, masks=masks, seed=masks)
    torch.testing.assert_close(attend(args, blocks, causal=causal), _by_sdpa(args, *blocks, causal))


@pytest.mark.parametrize(("args", "blocks", "causal"), PATTERNS)
def test_patterns_of_published_models(args, blocks, causal):
    assert 0.05 < args[3].float().mean() < 0.6
    torch.testing.assert_close(attend(args, blocks, causal=causal), _by_sdpa((*args, None), *blocks, causal))


def test_masks_that_a_model_computes_have_no_gradient_and_pass_one_on():
    q, k, v, *_ = block_sparse_arguments(1, 64, 64, (4, 2), 16)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    mask = selected(leaves[0], leaves[1], 2, 16, 2)
    attend((*leaves, mask), (1, 16), causal=True).square().sum().backward()
    expected = [t.clone().requires_grad_() for t in (q, k, v)]
    _by_sdpa((*expected, mask, None), 1, 16, True).square().sum().backward()
    for ours, theirs in zip(leaves, expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_padded_sequences_are_those_sequences():
    q, k, v, mask, _ = block_sparse_arguments(3, 40, 40, masks=2, one_mask=True, seed=1)
    lengths = torch.tensor([33, 40, 1])
    ranges = torch.stack((0 * lengths, lengths), -1)[:, None]
    padded = attend((q, k, v, mask, ranges), (16, 16))
    for i, n in enumerate(lengths.tolist()):
        blocks = -(-n // 16)
        part = [t[i : i + 1, :, :n] for t in (q, k, v)]
        alone = attend((*part, mask[:, :, :blocks, :blocks]), (16, 16))
        torch.testing.assert_close(padded[i : i + 1, :, :n], alone)


def test_all_blocks_with_causal_is_window_attention():
    q, k, v, _, ranges = block_sparse_arguments(2, 33, 70, ranges="both")
    ones = torch.ones(1, 1, 3, 5, dtype=torch.bool)
    expected = bridge.window_attention(q, k, v, None, ranges, softcap=2.0, scale=0.4)
    torch.testing.assert_close(attend((q, k, v, ones, ranges), (16, 16), causal=True, softcap=2.0, scale=0.4), expected)


def test_layouts_and_mask_dtypes_agree():
    q, k, v, mask, ranges = block_sparse_arguments(2, 37, 53, masks=4, ranges="both", seed=1)
    expected = attend((q, k, v, mask, ranges), (16, 16))
    transposed = [t.transpose(1, 2) for t in (q, k, v)]
    assert mask.dtype == torch.bool
    actual = attend((*transposed, mask.int() * -7, ranges), (16, 16), layout="bshd")
    torch.testing.assert_close(actual.transpose(1, 2), expected)


def test_queries_without_keys_give_zeros():
    check_without_keys()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("which", [1, 2], ids=["k", "v"])
def test_bad_numbers_reach_the_blocks_that_see_them_alone(which, bad):
    check_bad_numbers(bad, which)


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    check_refused(OP, text, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_masks_of_other_dtypes_are_refused(dtype):
    with pytest.raises(OpInputError, match=r"block_mask is .*, expected torch\.int32 or torch\.bool"):
        bridge.block_sparse_attention(**valid(block_mask=mask_of(2, 2, 3, 4, dtype=dtype)))


def test_export():
    batch, length = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("length", min=5, max=128)
    tokens = {0: batch, 2: length}
    check_export(
        OP,
        lambda n: block_sparse_arguments(n, n + 4, n + 4, blocks=(1, 128), ranges="both"),
        [tokens, tokens, tokens, tokens, {0: batch, 1: length}],
        query_block=1,
        key_block=128,
    )
