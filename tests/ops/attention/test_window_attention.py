import pytest
import torch
from refusals import check_refused
from samples.window_attention import window_attention_arguments
from torch.nn.functional import scaled_dot_product_attention
from window_attention_cases import without_keys

import bridge
from bridge.core.op import OPS
from bridge.testing import check_export

NAMES = tuple(OPS["window_attention"].tensors)


def _banded(queries: int, keys: int, left: int, right: int) -> torch.Tensor:
    """[S, T], written without positions: bands of a matrix whose last corner is the end of both."""
    ones = torch.ones(queries, keys, dtype=torch.bool)
    shift = keys - queries
    return (ones if left < 0 else ones.triu(shift - left)) & (ones if right < 0 else ones.tril(shift + right))


@pytest.mark.parametrize("keys", [7, 12, 4])
@pytest.mark.parametrize(("left", "right"), [(3, 0), (-1, 0), (0, 0), (2, 2), (-1, -1), (1, -1), (-1, 3), (40, 40)])
def test_windows_are_bands_of_a_dense_mask(left, right, keys):
    q, k, v, *_ = window_attention_arguments(2, 7, keys)
    seen = _banded(7, keys, left, right)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    expected = expected.masked_fill(~seen.any(-1, keepdim=True), 0.0)  # NaN there, by some of PyTorch's kernels
    torch.testing.assert_close(bridge.window_attention(q, k, v, window_left=left, window_right=right), expected)


def test_is_hugging_face_gemma2():
    gemma2 = pytest.importorskip("transformers.models.gemma2.modeling_gemma2", reason="needs transformers")
    q, k, v, *_ = window_attention_arguments(2, 7, 7)
    module = torch.nn.Module().eval()
    module.num_key_value_groups, module.is_causal = 2, True
    bias = torch.zeros(7, 7).masked_fill(~_banded(7, 7, 3, 0), torch.finfo(torch.float32).min)[None, None]
    expected, _ = gemma2.eager_attention_forward(module, q, k, v, bias, scaling=0.2, softcap=5.0)
    actual = bridge.window_attention(q, k, v, window_left=3, scale=0.2, softcap=5.0)
    torch.testing.assert_close(actual.transpose(1, 2), expected)


def test_is_hugging_face_gpt_oss():
    gpt_oss = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss", reason="needs transformers")
    q, k, v, sinks, _ = window_attention_arguments(2, 7, 7, sinks=True)
    module = torch.nn.Module().eval()
    module.num_key_value_groups, module.sinks = 2, sinks
    bias = torch.zeros(7, 7).masked_fill(~_banded(7, 7, 3, 0), torch.finfo(torch.float32).min)[None, None]
    expected, _ = gpt_oss.eager_attention_forward(module, q, k, v, bias, scaling=0.25)
    torch.testing.assert_close(bridge.window_attention(q, k, v, sinks, window_left=3).transpose(1, 2), expected)


def test_padded_sequences_are_those_sequences():
    lengths, tokens = (5, 9, 1), 9
    q, k, v, *_ = window_attention_arguments(3, tokens, tokens)
    ends = torch.tensor(lengths)
    ranges = torch.stack((0 * ends, ends), -1)[:, None]
    padded = bridge.window_attention(q, k, v, None, ranges, window_left=2, window_right=2)
    for i, n in enumerate(lengths):
        alone = bridge.window_attention(*(t[i : i + 1, :, :n] for t in (q, k, v)), window_left=2, window_right=2)
        torch.testing.assert_close(padded[i : i + 1, :, :n], alone)


def test_packed_sequences_are_those_sequences():
    lengths = (5, 9, 1)
    q, k, v, *_ = window_attention_arguments(1, 15, 15, layout="bshd")
    ends = torch.tensor(lengths).cumsum(0)
    of_token = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    ranges = torch.stack((ends - torch.tensor(lengths), ends), -1)[of_token][None]
    packed = bridge.window_attention(q, k, v, None, ranges, window_left=4, layout="bshd")
    for end, n in zip(ends.tolist(), lengths, strict=True):
        parts = (t[:, end - n : end] for t in (q, k, v))
        alone = bridge.window_attention(*parts, window_left=4, layout="bshd")
        torch.testing.assert_close(packed[:, end - n : end], alone)


def test_a_cache_with_room_is_the_cache_without():
    """Keys to come have no effect, whatever memory holds there."""
    filled, room = 11, 20
    q, k, v, *_ = window_attention_arguments(2, 3, room)
    k[:, :, filled:] = torch.nan
    v[:, :, filled:] = torch.nan
    position = torch.arange(filled - 3, filled)
    ranges = torch.stack((position - 4, position + 1), -1)[None]
    actual = bridge.window_attention(q, k, v, None, ranges, window_right=-1)
    short = bridge.window_attention(q, k[:, :, :filled], v[:, :, :filled], window_left=4)
    torch.testing.assert_close(actual, short)


def test_layouts_agree():
    q, k, v, sinks, ranges = window_attention_arguments(2, 5, 9, sinks=True, ranges="both")
    expected = bridge.window_attention(q, k, v, sinks, ranges, window_left=3)
    transposed = (t.transpose(1, 2) for t in (q, k, v))
    actual = bridge.window_attention(*transposed, sinks, ranges, window_left=3, layout="bshd")
    torch.testing.assert_close(actual.transpose(1, 2), expected)


def test_queries_without_keys_give_zeros():
    result = without_keys()
    assert (result[:, :, 1::2] == 0).all() and (result[:, :, ::2] != 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("which", "reached"), [("q", [5]), ("k", [5, 6, 7]), ("v", [0, 1, 2])])
def test_bad_numbers_reach_the_queries_that_see_them(which, reached, bad):
    """Of a bad value alone nothing is promised for the other queries."""
    args = dict(zip("qkv", window_attention_arguments(1, 12, 12, (2, 1)), strict=False))
    clean = bridge.window_attention(**args, window_left=2)
    args[which][0, 0, reached[0]] = bad
    actual = bridge.window_attention(**args, window_left=2)
    if bad != bad or which == "v":
        assert not actual[0, 0, reached].isfinite().any()
    if which != "v":
        others = [i for i in range(12) if i not in reached]
        torch.testing.assert_close(actual[:, :, others], clean[:, :, others])


def _args(**changes):
    return {**dict(zip("qkv", window_attention_arguments(2, 5, 9), strict=False)), **changes}


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ("layout", _args(layout="bdsh"), r'layout is "bdsh", expected "bhsd" or "bshd"'),
    ("left", _args(window_left=-2), "window_left is -2, expected a number of keys, or -1 for all"),
    ("right", _args(window_right=-7), "window_right is -7, expected a number of keys, or -1 for all"),
    ("scale", _args(scale=float("inf")), r"scale is inf, expected a finite number \(0 for"),
    ("softcap", _args(softcap=-1.0), r"softcap is -1(\.0)?, expected a finite number above 0"),
    ("rank", _args(q=_zeros(2, 5, 16)), "q, k and v must have 4 dimensions, got .2, 5, 16"),
    ("k and v", _args(v=_zeros(2, 2, 8, 16)), r"k and v differ in shape: .2, 2, 9, 16. and .2, 2, 8, 16"),
    ("batch", _args(q=_zeros(3, 4, 5, 16)), "q and k differ in batch or head_dim: .3, 4, 5, 16"),
    ("width", _args(q=_zeros(2, 4, 5, 8)), "q and k differ in batch or head_dim: .2, 4, 5, 8"),
    ("heads", _args(q=_zeros(2, 3, 5, 16)), "q has 3 heads, expected a multiple of the 2 of k"),
    ("no heads", _args(k=_zeros(2, 0, 9, 16), v=_zeros(2, 0, 9, 16)), "expected a multiple of the 0 of k"),
    ("wide", {n: _zeros(1, 1, 2, 264) for n in "qkv"}, "head_dim is 264, expected 1 to 256"),
    ("sinks", _args(sinks=_zeros(2)), r"sinks has shape .2,?., expected .4,?., one a head of q"),
    ("ranges", _args(key_ranges=_zeros(2, 5, dtype=torch.int64)), r"key_ranges has shape .2, 5., expected"),
    ("range batch", _args(key_ranges=_zeros(3, 5, 2, dtype=torch.int32)), r"shape .3, 5, 2., expected .2 or 1, 5 or 1"),
    ("range query", _args(key_ranges=_zeros(2, 4, 2, dtype=torch.int32)), r"shape .2, 4, 2., expected .2 or 1, 5 or 1"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    check_refused(OPS["window_attention"], text, args)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_export(layout):
    batch, length = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("length", min=1, max=128)
    tokens = {0: batch, (2 if layout == "bhsd" else 1): length}
    check_export(
        OPS["window_attention"],
        lambda n: window_attention_arguments(n, n + 4, n + 4, layout=layout, sinks=True, ranges="both"),
        [tokens, tokens, tokens, None, {0: batch, 1: length}],
        layout=layout,
        window_left=3,
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(args, text):
    given = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.window_attention(**given)
