"""The kernels of block_sparse_attention against its reference, on a GPU."""

import pytest
import torch
from attention_plugins import check_no_tactics, check_tactics
from block_sparse_cases import BAD, PATTERNS, attend, check_bad_numbers, check_without_keys
from draw import seeded
from samples.block_sparse_attention import block_sparse_arguments

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.testing import cast, check_cuda, check_error

OP = OPS["block_sparse_attention"]
HALVES = (torch.float16, torch.bfloat16)

# Kernels: heads of queries and keys, head_dim. Each width has kernels for few, for some and for many rows.
WIDTHS = [((4, 2), 32), ((4, 1), 64), ((6, 6), 80), ((4, 2), 96), ((8, 2), 128), ((2, 1), 136), ((4, 2), 256)]
WIDTHS += [((6, 2), 64), ((14, 1), 128)]  # heads of a key head that divide no tile of rows
# Queries, keys, blocks, masks as 1 for all, 0 for those of groups and -1 for those of heads, the share of blocks.
LENGTHS = [
    (300, 300, (128, 128), 1, 0.5),
    (257, 391, (64, 64), -1, 0.3),
    (513, 513, (32, 16), 0, 0.2),
    (200, 77, (200, 48), -1, 0.6),
    (129, 129, (16, 80), 0, 0.4),
    (1, 1000, (1, 64), 0, 0.3),
    (3, 517, (1, 16), -1, 0.1),
    (70, 900, (1, 64), 0, 0.3),
    (130, 130, (48, 7), 1, 0.5),
    (150, 150, (100, 300), 1, 0.7),
]


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("heads", "head_dim"), WIDTHS)
def test_cuda_kernels(heads, head_dim, dtype, tactic):
    for seed, (queries, keys, blocks, masks, density) in enumerate(LENGTHS):
        layout, count = ("bhsd", "bshd")[seed % 2], {1: 1, 0: heads[1], -1: heads[0]}[masks]
        sizes = {"layout": layout, "density": density, "one_mask": seed % 3 == 0, "masks": count, "seed": seed}
        args = block_sparse_arguments(2, queries, keys, heads, head_dim, blocks, **sizes)
        attributes = {"query_block": blocks[0], "key_block": blocks[1], "causal": seed % 4 < 2, "layout": layout}
        with libraries.tactic("block_sparse_attention", tactic):
            check_cuda(OP, dtype, *args, **attributes, softcap=4.0 * (seed % 4 == 1))


@pytest.mark.gpu
@pytest.mark.parametrize("ranges", ["lengths", "queries", "both", "one"])
@pytest.mark.parametrize("query_block", [1, 32, 128])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_cuda_key_ranges(head_dim, query_block, ranges):
    for seed, dtype in enumerate((torch.float32, *HALVES)):
        sizes = {"blocks": (query_block, 32), "masks": 2, "ranges": ranges, "seed": seed}
        args = block_sparse_arguments(3, min(150, 40 * query_block), 300, (4, 2), head_dim, **sizes)
        check_cuda(OP, dtype, *args, query_block=query_block, key_block=32, causal=bool(seed % 2))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("keys", "key_block"), [(70001, 16), (40000, 64), (33000, 48)])
def test_cuda_more_keys_than_a_list_holds(keys, key_block, dtype):
    for queries, query_block in ((130, 128), (2, 1)):
        sizes = {"blocks": (query_block, key_block), "masks": 2, "density": 0.02, "seed": 1}
        args = block_sparse_arguments(1, queries, keys, (2, 2), 32, **sizes)
        check_cuda(OP, dtype, *args, query_block=query_block, key_block=key_block)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("args", "blocks", "causal"), PATTERNS)
def test_cuda_patterns_of_published_models(args, blocks, causal, dtype):
    check_cuda(OP, dtype, *args, query_block=blocks[0], key_block=blocks[1], causal=causal)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("blocks", [(16, 16), (48, 32), (1, 64), (2, 5)])
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
def test_cuda_queries_without_keys_give_zeros(head_dim, blocks, dtype):
    check_without_keys("cuda", dtype, blocks, head_dim)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("which", [1, 2], ids=["k", "v"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_cuda_bad_numbers_reach_the_blocks_that_see_them_alone(head_dim, which, dtype):
    for bad in (float("nan"), float("inf")):
        for blocks in ((16, 32), (1, 16), (100, 48)):
            check_bad_numbers(bad, which, "cuda", dtype, blocks, head_dim)


@pytest.mark.gpu
@pytest.mark.parametrize("shift", [0, 4], ids=["aligned", "unaligned"])
def test_cuda_takes_strided_tensors_as_they_are(shift):
    heads, head_dim = (4, 2, 2), 64
    joint = torch.randn(2, 50, shift + sum(heads) * head_dim, dtype=torch.float16, device="cuda")
    parts = joint[..., shift:].split([n * head_dim for n in heads], -1)
    strided = [part.unflatten(-1, (n, head_dim)).transpose(1, 2) for part, n in zip(parts, heads, strict=True)]
    mask = (torch.rand(1, 1, 4, 4) < 0.6).cuda()
    dense = attend((*(t.contiguous() for t in strided), mask), (16, 16))
    torch.testing.assert_close(attend((*strided, mask), (16, 16)), dense, rtol=2e-3, atol=2e-3)


@pytest.mark.gpu
def test_cuda_takes_keys_that_a_batch_shares():
    q, k, v, mask, _ = cast(block_sparse_arguments(3, 200, 200, head_dim=64, seed=1), torch.float16, "cuda")
    k, v = (t[:1].expand(3, -1, -1, -1) for t in (k, v))
    dense = attend((q, k.contiguous(), v.contiguous(), mask), (16, 16))
    torch.testing.assert_close(attend((q, k, v, mask), (16, 16)), dense, rtol=2e-3, atol=2e-3)


def plugin_arguments(head_dim):
    return block_sparse_arguments(2, 300, 300, (4, 2), head_dim, (64, 64), seed=1)[:4]


PLUGIN_BLOCKS = {"query_block": 64, "key_block": 64}


def test_without_a_gpu_of_9_0_the_plugin_has_no_tactics():
    check_no_tactics("block_sparse_attention", plugin_arguments, PLUGIN_BLOCKS)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [16, 64, 72, 128, 256])
def test_every_tactic_of_the_plugin_is_the_reference(head_dim):
    check_tactics("block_sparse_attention", plugin_arguments(head_dim), PLUGIN_BLOCKS, 3)


@pytest.mark.gpu
def test_cuda_long_sequences_against_float64():
    """A sample of queries, of many blocks among more."""
    q, k, v = (torch.randn(1, n, 16384, 128, generator=seeded(1)).bfloat16() for n in (4, 1, 1))
    mask = torch.rand(1, 4, 128, 128, generator=seeded(2)) < 0.1
    ours = bridge.block_sparse_attention(q.cuda(), k.cuda(), v.cuda(), mask.cuda(), causal=True).cpu()
    for block in (0, 1, 77, 127):
        rows = slice(128 * block, 128 * (block + 1))
        part = [q[:, :, rows], k[:, :, : rows.stop], v[:, :, : rows.stop], mask[:, :, block : block + 1, : block + 1]]
        exact = bridge.block_sparse_attention(*cast(part, torch.float64), causal=True)
        check_error(f"block {block}", exact, bridge.block_sparse_attention(*part, causal=True), ours[:, :, rows])


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(args, text):
    given = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.block_sparse_attention(**given)
