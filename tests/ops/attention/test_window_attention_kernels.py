"""The kernels of window_attention against its reference, on a GPU."""

import pytest
import torch
from attention_plugins import check_no_tactics, check_tactics
from draw import seeded
from samples.window_attention import window_attention_arguments
from window_attention_cases import without_keys

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.testing import cast, check_cuda, check_error

# Kernels: heads of queries and keys, head_dim. Each width has kernels for many and for few rows, and splits.
WIDTHS = [((4, 2), 32), ((4, 1), 64), ((6, 6), 80), ((4, 2), 96), ((8, 2), 128), ((2, 1), 136), ((4, 2), 256)]
WIDTHS += [((6, 2), 64), ((14, 1), 128)]  # heads of a key head that divide no tile of rows
HALVES = (torch.float16, torch.bfloat16)
# Queries, keys, window_left, window_right.
LENGTHS = [
    (300, 300, 70, 0),
    (257, 391, 128, 0),
    (513, 513, 64, 64),
    (200, 77, 30, 2),
    (129, 129, -1, 0),
    (1, 1000, 700, 0),
    (3, 517, -1, -1),
    (40, 900, 600, 0),
    (1, 64, 0, 0),
]


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1, 2])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("heads", "head_dim"), WIDTHS)
def test_cuda_kernels(heads, head_dim, dtype, tactic):
    for seed, (queries, keys, left, right) in enumerate(LENGTHS):
        layout = ("bhsd", "bshd")[seed % 2]
        args = window_attention_arguments(2, queries, keys, heads, head_dim, layout, bool(seed % 3), seed=seed)
        window = {"window_left": left, "window_right": right, "layout": layout}
        with libraries.tactic("window_attention", tactic):
            check_cuda(OPS["window_attention"], dtype, *args, **window, softcap=4.0 * (seed % 4 == 1))


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [1, 2])
@pytest.mark.parametrize("heads", [67, 129, 257])
@pytest.mark.parametrize("head_dim", [64, 120, 256])
def test_cuda_many_heads_of_a_key_head(head_dim, heads, tactic):
    """A tile of rows has room for a few queries, for one, or for none."""
    args = window_attention_arguments(2, 20, 150, (heads, 1), head_dim, sinks=True, seed=heads)
    with libraries.tactic("window_attention", tactic):
        check_cuda(OPS["window_attention"], torch.bfloat16, *args, window_left=40)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("heads", [(4, 4), (8, 4), (16, 4), (36, 4)])
@pytest.mark.parametrize("head_dim", [40, 64, 128, 256])
def test_cuda_few_rows_of_many_key_heads(head_dim, heads, dtype):
    for queries, keys in ((1, 700), (3, 90)):
        args = window_attention_arguments(17, queries, keys, heads, head_dim, sinks=True, ranges="lengths", seed=keys)
        check_cuda(OPS["window_attention"], dtype, *args, window_left=500, softcap=5.0 * (queries > 1))


@pytest.mark.gpu
@pytest.mark.parametrize("keys", [5000, 20000])
def test_cuda_few_rows_of_one_key_head(keys):
    """Clusters of blocks share its keys, and of very many each cluster has a part."""
    args = window_attention_arguments(1, 1, keys, (8, 1), 256, sinks=True, seed=keys)
    check_cuda(OPS["window_attention"], torch.bfloat16, *args)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
def test_cuda_largest_tiles(dtype):
    """Those of 192 rows, for which the rows must be enough."""
    args = window_attention_arguments(2, 257, 391, (56, 14), 128, sinks=True, ranges="both")
    check_cuda(OPS["window_attention"], dtype, *args, window_left=128)
    check_cuda(OPS["window_attention"], dtype, *args[:3], window_left=30, window_right=60)


@pytest.mark.gpu
@pytest.mark.parametrize("ranges", ["lengths", "queries", "both", "one"])
@pytest.mark.parametrize("queries", [1, 150])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_cuda_key_ranges(head_dim, queries, ranges):
    for seed, dtype in enumerate(HALVES):
        args = window_attention_arguments(3, queries, 300, (4, 2), head_dim, sinks=True, ranges=ranges, seed=seed)
        check_cuda(OPS["window_attention"], dtype, *args, window_left=90, window_right=3)
        check_cuda(OPS["window_attention"], dtype, *args[:3], None, args[4], window_right=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
def test_cuda_queries_without_keys_give_zeros(head_dim, dtype):
    result = without_keys("cuda", dtype, head_dim)
    assert (result[:, :, 1::2] == 0).all() and (result[:, :, ::2] != 0).any(-1).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("queries", [1, 140])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_cuda_never_reads_what_no_query_sees(head_dim, queries, dtype):
    """NaN before and after all keys that are seen, in rows of tiles that are loaded for others."""
    q, k, v, *_ = cast(window_attention_arguments(1, queries, 400, (4, 2), head_dim), dtype)
    ranges = torch.tensor([[[203, 300]]])
    clean = bridge.window_attention(q, k, v, None, ranges, window_right=-1)
    for x in (k, v):
        x[:, :, :203], x[:, :, 300:] = torch.nan, torch.inf
    ours = bridge.window_attention(*cast([q, k, v, None, ranges], device="cuda"), window_right=-1)
    exact = bridge.window_attention(*cast([q, k, v, None, ranges], torch.float64), window_right=-1)
    check_error(f"window_attention, {dtype}", exact, clean, ours.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_cuda_bad_numbers_reach_the_queries_that_see_them(head_dim, dtype):
    for which in range(3):
        args = cast(window_attention_arguments(1, 300, 300, (2, 1), head_dim), dtype)
        args[which][0, 0, 150] = torch.nan
        ours = bridge.window_attention(*cast(args, device="cuda"), window_left=20).cpu()[0, 0]
        seen = [150] if which == 0 else [*range(150, 171)]
        assert ours[seen].isnan().all()
        clean = [i for i in range(300) if i not in seen] if which < 2 else [*range(20), *range(290, 300)]
        assert ours[clean].isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("shift", [0, 4], ids=["aligned", "unaligned"])
def test_cuda_takes_strided_tensors_as_they_are(shift):
    """Queries, keys and values as they leave a joint projection: slices, with heads moved before tokens."""
    heads, head_dim = (4, 2, 2), 64
    joint = torch.randn(2, 50, shift + sum(heads) * head_dim, dtype=torch.float16, device="cuda")
    parts = joint[..., shift:].split([n * head_dim for n in heads], -1)
    strided = [part.unflatten(-1, (n, head_dim)).transpose(1, 2) for part, n in zip(parts, heads, strict=True)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ours = bridge.window_attention(*strided, window_left=9)
        torch.cuda.synchronize()
    dense = bridge.window_attention(*(t.contiguous() for t in strided), window_left=9)
    torch.testing.assert_close(ours, dense, rtol=2e-3, atol=2e-3)
    assert not any("copy" in event.name.lower() for event in profile.events())


@pytest.mark.gpu
def test_cuda_long_sequences_against_sdpa():
    """Of the length and window that Mistral 7B has; a sample of queries against float64."""
    q, k, v = (torch.randn(1, n, 16384, 128, generator=seeded(1)).bfloat16().cuda() for n in (4, 1, 1))
    ours = bridge.window_attention(q, k, v, window_left=4095)
    for i in (0, 4095, 4096, 9999, 16383):
        first = max(i - 4095, 0)
        part = [t[:, :, first : i + 1].cpu() for t in (k, v)]
        exact = bridge.window_attention(q[:, :, i : i + 1].cpu().double(), *(t.double() for t in part))
        rounded = bridge.window_attention(q[:, :, i : i + 1].cpu(), *part)
        check_error(f"query {i}", exact, rounded, ours[:, :, i : i + 1].cpu())


WINDOW = {"window_left": 70, "window_right": 3}


def plugin_arguments(head_dim):
    return window_attention_arguments(2, 300, 300, (4, 2), head_dim, sinks=True, seed=1)


def test_without_a_gpu_of_9_0_the_plugin_has_no_tactics():
    check_no_tactics("window_attention", plugin_arguments, WINDOW)


@pytest.mark.gpu
@pytest.mark.parametrize(("head_dim", "count"), [(16, 3), (64, 3), (96, 3), (104, 4), (128, 4), (256, 3)])
def test_every_tactic_of_the_plugin_is_the_reference(head_dim, count):
    check_tactics("window_attention", plugin_arguments(head_dim), WINDOW, count)


# Batch, heads, queries, keys, head_dim, window_left: the kernel that the op chooses on compute capability 9.0.
CHOICES = [
    (1, 32, 16384, 16384, 128, 127, 2),
    (1, 32, 16384, 16384, 128, 4095, 1),
    (1, 32, 512, 8192, 128, 1023, 1),
    (8, 32, 2048, 2048, 128, -1, 1),
    (1, 32, 16384, 16384, 64, 127, 1),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("batch", "heads", "queries", "keys", "head_dim", "left", "tactic"), CHOICES)
def test_cuda_own_choice(batch, heads, queries, keys, head_dim, left, tactic):
    """Bit for bit: the two of them, or the one and every GPU's, add up other tiles."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("other GPUs have one kernel")
    shapes = [(batch, heads, queries, head_dim), (batch, 1, keys, head_dim), (batch, 1, keys, head_dim)]
    args = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    own = bridge.window_attention(*args, window_left=left)
    for each in (1, 2) if head_dim > 96 else (0, 1):
        with libraries.tactic("window_attention", each):
            found = bridge.window_attention(*args, window_left=left)
        differ = (own != found).sum().item()
        assert (differ == 0) == (each == tactic), f"tactic {each}: {differ} differ, {own.isnan().sum().item()} are NaN"
