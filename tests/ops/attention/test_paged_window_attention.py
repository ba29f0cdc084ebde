from importlib.util import find_spec

import pytest
import torch
from refusals import check_refused
from samples.paged_window_attention import paged_arguments
from samples.window_attention import window_attention_arguments

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import cast, check_cuda, check_error, check_export

OP = OPS["paged_window_attention"]


def _contiguous(cache: torch.Tensor, table: torch.Tensor, sequence: int, length: int) -> torch.Tensor:
    """[1, G, length, D], one key after the other, each looked up by itself."""
    size = cache.shape[1]
    keys = [cache[int(table[sequence, j // size]), j % size] for j in range(length)]
    return torch.stack(keys, 1)[None]


@pytest.mark.parametrize("page_size", [1, 7, 16, 48])
@pytest.mark.parametrize(("left", "right"), [(3, 0), (-1, 0), (2, 2), (-1, -1), (100, 0)])
def test_is_window_attention_of_each_sequence(left, right, page_size):
    lengths = (17, 40, 5)
    q, k, v, table, of_sequence, sinks, _ = paged_arguments(lengths, 5, page_size=page_size, sinks=True)
    window = {"window_left": left, "window_right": right, "softcap": 3.0}
    actual = bridge.paged_window_attention(q, k, v, table, of_sequence, sinks, **window)
    for i, length in enumerate(lengths):
        keys, values = (_contiguous(cache, table, i, length) for cache in (k, v))
        expected = bridge.window_attention(q[i : i + 1], keys, values, sinks, **window)
        torch.testing.assert_close(actual[i : i + 1], expected)


def test_key_ranges_count_within_the_sequence():
    q, k, v, table, lengths, _, _ = paged_arguments((30, 21), 4, page_size=8)
    ranges = torch.tensor([[[9, 20]], [[-3, 2]]])
    actual = bridge.paged_window_attention(q, k, v, table, lengths, None, ranges, window_right=-1)
    for i, (begin, end) in enumerate(((9, 20), (0, 2))):
        keys, values = (_contiguous(cache, table, i, end)[:, :, begin:] for cache in (k, v))
        expected = bridge.window_attention(q[i : i + 1], keys, values, window_right=-1)
        torch.testing.assert_close(actual[i : i + 1], expected)


def test_sequences_share_pages():
    """A prefix of two pages that both have, and pages of their own."""
    q, k, v, *_ = paged_arguments((96,), 3, page_size=16, spare=0)
    q = torch.cat((q, q))
    table = torch.tensor([[4, 1, 0, 5], [4, 1, 3, 2]])
    lengths = torch.tensor([60, 41])
    actual = bridge.paged_window_attention(q, k, v, table, lengths, window_left=50)
    for i, length in enumerate(lengths.tolist()):
        keys, values = (_contiguous(cache, table, i, length) for cache in (k, v))
        expected = bridge.window_attention(q[:1], keys, values, window_left=50)
        torch.testing.assert_close(actual[i : i + 1], expected)


def test_layouts_agree():
    args = paged_arguments((20, 9), 5, sinks=True, ranges="both")
    expected = bridge.paged_window_attention(*args, window_left=3)
    transposed = bridge.paged_window_attention(args[0].transpose(1, 2), *args[1:], window_left=3, layout="bshd")
    torch.testing.assert_close(transposed.transpose(1, 2), expected)


def test_queries_before_all_keys_give_zeros():
    q, k, v, table, lengths, *_ = paged_arguments((3, 0), 5)
    result = bridge.paged_window_attention(q, k, v, table, lengths)
    assert (result[0, :, :2] == 0).all() and (result[0, :, 2:] != 0).all() and (result[1] == 0).all()


@pytest.mark.parametrize("number", [-1, 9, 2**31 - 1, -(2**31)])
def test_a_page_that_is_not_there(number):
    """An error where it is seen, and nothing where it is not."""
    q, k, v, table, lengths, *_ = paged_arguments((70, 40), 2)
    table[0, 0] = number
    expected = rf"block_table\[0, 0\] is {number}, expected a page of the {len(k)} of k_cache"
    with pytest.raises(OpInputError, match=expected):
        bridge.paged_window_attention(q, k, v, table, lengths)
    assert bridge.paged_window_attention(q, k, v, table, lengths, window_left=20).isfinite().all()


@pytest.mark.parametrize("length", [-1, 97, 2**31 - 1])
def test_a_length_that_the_table_has_no_room_for(length):
    q, k, v, table, lengths, *_ = paged_arguments((70, 40), 2)
    lengths[1] = length
    with pytest.raises(OpInputError, match=rf"lengths\[1\] is {length}, expected 0 to 96, the keys"):
        bridge.paged_window_attention(q, k, v, table, lengths)


def _args(**changes):
    return {**dict(zip(OP.tensors, paged_arguments((9, 40), 5), strict=True)), **changes}


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


def _caches(*shape):
    return {"k_cache": _zeros(*shape), "v_cache": _zeros(*shape)}


BAD = [
    ("layout", _args(layout="bdsh"), r'layout is "bdsh", expected "bhsd" or "bshd"'),
    ("left", _args(window_left=-2), "window_left is -2, expected a number of keys, or -1 for all"),
    ("right", _args(window_right=-7), "window_right is -7, expected a number of keys, or -1 for all"),
    ("softcap", _args(softcap=-1.0), r"softcap is -1(\.0)?, expected a finite number above 0"),
    ("rank", _args(k_cache=_zeros(3, 16, 16)), "q, k_cache and v_cache must have 4 dimensions, got .2, 4, 5, 16"),
    ("caches", _args(v_cache=_zeros(5, 8, 2, 16)), r"k_cache and v_cache differ in shape: .5, 16, 2, 16. and .5, 8"),
    ("width", _args(q=_zeros(2, 4, 5, 8)), "q and k_cache differ in head_dim: .2, 4, 5, 8. and .5, 16, 2, 16"),
    ("heads", _args(q=_zeros(2, 3, 5, 16)), "q has 3 heads, expected a multiple of the 2 of k_cache"),
    ("no heads", _args(**_caches(5, 16, 0, 16)), "expected a multiple of the 0 of k_cache"),
    ("empty pages", _args(**_caches(5, 0, 2, 16)), r"k_cache has shape .5, 0, 2, 16., expected pages of at least 1"),
    ("wide", _args(q=_zeros(2, 4, 5, 264), **_caches(5, 16, 2, 264)), "head_dim is 264, expected 1 to 256"),
    ("table", _args(block_table=_zeros(3, 4, dtype=torch.int32)), "block_table has shape .3, 4., expected .2, pages"),
    ("table rank", _args(block_table=_zeros(2, dtype=torch.int32)), "block_table has shape .2,?., expected .2, pages"),
    ("lengths", _args(lengths=_zeros(3, dtype=torch.int32)), "lengths has shape .3,?., expected .2,?., one a sequence"),
    ("sinks", _args(sinks=_zeros(2)), r"sinks has shape .2,?., expected .4,?., one a head of q"),
    ("ranges", _args(key_ranges=_zeros(3, 5, 2, dtype=torch.int32)), r"shape .3, 5, 2., expected .2 or 1, 5 or 1"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    check_refused(OP, text, args)


def test_export():
    batch, width = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("width", min=1, max=64)
    pages = torch.export.Dim("pages", min=1, max=4096)
    check_export(
        OP,
        lambda n: paged_arguments((9 * n,) * n, 3, spare=n, rest=0.0)[:5],
        [{0: batch}, {0: pages}, {0: pages}, {0: batch, 1: width}, {0: batch}],
        window_left=20,
    )


class Decoder(torch.nn.Module):
    """A layer's attention over its cache."""

    def forward(self, q, k_cache, v_cache, block_table, lengths):
        return bridge.paged_window_attention(q, k_cache, v_cache, block_table, lengths, window_left=20)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_engine_with_any_number_of_sequences_and_pages(dtype):
    most = {"batch": 8, "pages": 512, "width": 64}
    batch, pages, width = (torch.export.Dim(name, min=1, max=number) for name, number in most.items())
    args = cast(paged_arguments((40, 33), 2, rest=0.0)[:5], dtype)
    shapes = ({0: batch}, {0: pages}, {0: pages}, {0: batch, 1: width}, {0: batch})
    engine = bridge.compile(Decoder().eval(), args, dynamic_shapes=shapes, target="sm86")
    assert dict(engine.plugin_counts()) == {"paged_window_attention": 1}


WIDTHS = [((4, 2), 32), ((4, 1), 64), ((6, 6), 80), ((4, 2), 96), ((8, 2), 128), ((2, 1), 136), ((4, 2), 256)]
HALVES = (torch.float16, torch.bfloat16)
# Lengths, queries, window_left, window_right: one query and few share keys among warps and blocks, many do not.
CALLS = [
    ((1000, 3, 0, 517), 1, 700, 0),
    ((300, 513), 257, 70, 0),
    ((129, 40), 3, -1, -1),
    ((900, 64), 40, 600, 2),
    ((200, 391), 150, 64, 64),
]


@pytest.mark.gpu
@pytest.mark.parametrize("page_size", [16, 64, 1, 24])
@pytest.mark.parametrize(("dtype", "tactic"), [(torch.float32, 0), *((half, i) for half in HALVES for i in (0, 1))])
@pytest.mark.parametrize(("heads", "head_dim"), WIDTHS)
def test_cuda_kernels(heads, head_dim, dtype, tactic, page_size):
    for seed, (lengths, queries, left, right) in enumerate(CALLS):
        layout = ("bhsd", "bshd")[seed % 2]
        args = paged_arguments(lengths, queries, heads, head_dim, page_size, 2, layout, bool(seed % 3), seed=seed)
        window = {"window_left": left, "window_right": right, "layout": layout}
        with libraries.tactic("paged_window_attention", tactic):
            check_cuda(OP, dtype, *args, **window, softcap=4.0 * (seed % 4 == 1))


@pytest.mark.gpu
@pytest.mark.parametrize("ranges", ["lengths", "queries", "both", "one"])
@pytest.mark.parametrize("queries", [1, 150])
def test_cuda_key_ranges(queries, ranges):
    for seed, dtype in enumerate(HALVES):
        args = paged_arguments((300, 170, 77), queries, (4, 2), 128, sinks=True, ranges=ranges, seed=seed)
        check_cuda(OP, dtype, *args, window_left=90, window_right=3)
        check_cuda(OP, dtype, *args[:5], None, args[6], window_right=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("queries", [1, 150])
def test_cuda_is_window_attention_of_the_same_keys(queries, dtype):
    """A cache whose pages lie in order, against the kernel of keys that lie side by side."""
    q, k, v, *_ = cast(window_attention_arguments(2, queries, 320, (4, 2), 128), dtype, device="cuda")
    pages = [t.transpose(1, 2).reshape(20 * 2, 16, 2, 128) for t in (k, v)]
    table = torch.arange(40, device="cuda").view(2, 20)
    lengths = torch.tensor([320, 320], device="cuda")
    with libraries.tactic("window_attention", 0):
        expected = bridge.window_attention(q, k, v, window_left=100)
    actual = bridge.paged_window_attention(q, *pages, table, lengths, window_left=100)
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("queries", [1, 150])
@pytest.mark.parametrize("number", [-1, 10**6, 2**31 - 1, -(2**31), 2**32])
def test_cuda_pages_and_lengths_that_are_not_there_give_nan(number, queries, dtype):
    """Of their sequence alone; and where they are not seen, nothing."""
    wide = number >= 2**31
    args = cast(paged_arguments((700, 400), queries, (4, 2), 64, seed=int(wide)), dtype, device="cuda")
    clean = bridge.paged_window_attention(*args, window_left=50)
    args[3][0, 0] = number
    unseen = bridge.paged_window_attention(*args, window_left=50)
    torch.testing.assert_close(unseen, clean)
    seen = bridge.paged_window_attention(*args)
    assert seen[0].isnan().all() and seen[1].isfinite().all()
    args[3][0, 0] = 0
    args[4][1] = number
    wrong = bridge.paged_window_attention(*args)
    assert wrong[1].isnan().all() and wrong[0].isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
def test_cuda_takes_a_transposed_cache_as_it_is(dtype):
    """[pages, G, page_size, D], as some engines lay a cache out."""
    q, k, v, *tables, _, _ = cast(paged_arguments((300, 77), 3, (4, 2), 64), dtype, device="cuda")
    expected = bridge.paged_window_attention(q, k, v, *tables)
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (k, v)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        actual = bridge.paged_window_attention(q, *turned, *tables)
        torch.cuda.synchronize()
    torch.testing.assert_close(actual, expected)
    assert not any("copy" in event.name.lower() for event in profile.events())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_long_sequences(dtype):
    """Decoding with the cache and the window that Mistral 7B has, against float64."""
    q, k, v, *tables, _, _ = paged_arguments((16384, 5000), 1, (4, 1), 128)
    given = cast([q, k, v, *tables], dtype)
    ours = bridge.paged_window_attention(*cast(given, device="cuda"), window_left=4095).cpu()
    exact = bridge.paged_window_attention(*cast(given, torch.float64), window_left=4095)
    check_error("paged", exact, bridge.paged_window_attention(*given, window_left=4095), ours)


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(args, text):
    given = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.paged_window_attention(**given)
