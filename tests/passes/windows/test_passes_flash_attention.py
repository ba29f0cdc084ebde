"""Operators of the packages flash_attn and flash_attn_3, declared here as they declare them, and what stays."""

import math

import pytest
import torch
from programs import Function
from torch import Tensor
from torch.export import Dim
from window_programs import calls

import bridge
from bridge.graph import capture
from bridge.passes import pass_names, rewrite

NAMES = ["flash_attention"]
Results = tuple[Tensor, Tensor, Tensor, Tensor]


def attended(q, k, v, scale, causal, left, right, softcap):
    """q [B, S, H, D], k and v [B, T, G, D]: the attention of the packages, in float32."""
    queries, heads, keys = q.shape[1], q.shape[2], k.shape[1]
    k, v = (each.repeat_interleave(heads // each.shape[2], 2).float() for each in (k, v))
    logits = torch.einsum("bshd,bthd->bhst", q.float(), k) * (scale or q.shape[3] ** -0.5)
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    distance = torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries)
    right = 0 if causal else right
    seen = ((left < 0) | (distance >= -left)) & ((right < 0) | (distance <= right))
    weights = logits.masked_fill(~seen, -math.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("bhst,bthd->bshd", weights, v).to(q.dtype)


def results(y: Tensor) -> Results:
    return y, torch.zeros(1), torch.zeros(0), torch.zeros(2)


def fake(q: Tensor) -> Results:
    return torch.empty_like(q), q.new_empty(1), q.new_empty(0), q.new_empty(2)


@torch.library.custom_op("flash_attn::_flash_attn_forward", mutates_args=())
def dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    return_softmax: bool,
) -> Results:
    return results(attended(q, k, v, softmax_scale, causal, window_size_left, window_size_right, softcap))


@torch.library.custom_op("flash_attn::_flash_attn_varlen_forward", mutates_args=())
def packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
    block_table: Tensor | None = None,
    zero_tensors: bool = False,
) -> Results:
    y, how = torch.zeros_like(q), (softmax_scale, causal, window_size_left, window_size_right, softcap)
    bounds = [(each[:-1].tolist(), each[1:].tolist()) for each in (cu_seqlens_q, cu_seqlens_k)]
    for a, b, c, d in zip(*bounds[0], *bounds[1], strict=True):
        y[a:b] = attended(q[None, a:b], k[None, c:d], v[None, c:d], *how)[0]
    return results(y)


@torch.library.custom_op("flash_attn_3::_flash_attn_forward", mutates_args=())
def third(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    qv: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    page_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    num_splits: int = 1,
) -> Results:
    return results(attended(q, k, v, softmax_scale, causal, window_size_left, window_size_right, softcap))


for each in (dense, packed, third):
    each.register_fake(lambda q, k, v, *rest, **named: fake(q.new_empty(*q.shape[:-1], v.shape[-1])))


def arguments(batch=2, queries=9, keys=None, head_dim=16, dtype=torch.float16):
    g = torch.Generator().manual_seed(queries)
    sizes = [(queries, 4), *[(keys or queries, 2)] * 2]
    return tuple(torch.randn(batch, length, heads, head_dim, generator=g).to(dtype) for length, heads in sizes)


def exported(function, args, shapes=None):
    return capture.export(Function(function).eval(), args, {}, {"args": shapes} if shapes else None)


def second(q, k, v, causal=False, window=(-1, -1), softcap=0.0, scale=0.25, dropout=0.0, alibi=None):
    """As flash_attn_func calls the operator."""
    return torch.ops.flash_attn._flash_attn_forward(q, k, v, dropout, scale, causal, *window, softcap, alibi, False)


CALLS = {
    "all keys": {},
    "causal": {"causal": True},
    "a causal window": {"causal": True, "window": (3, 0)},
    "a window to both sides": {"window": (2, 1)},
    "a soft-cap": {"causal": True, "softcap": 3.0, "scale": 0.7},
}


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("keys", [9, 13, 5])
def test_dense_attention(case, keys):
    settings, args = CALLS[case], arguments(keys=keys)
    program = exported(lambda q, k, v: second(q, k, v, **settings)[0], args)
    found, (outcome,) = rewrite(program, NAMES)
    (call,) = calls(found)
    assert outcome.replaced and call.kwargs["layout"] == "bshd"
    assert call.kwargs["window_right"] == (0 if settings.get("causal") else settings.get("window", (-1, -1))[1])
    torch.testing.assert_close(found.module()(*args), second(*args, **settings)[0], rtol=2e-3, atol=2e-3)


def test_the_third_one_and_other_lengths():
    length = {1: Dim("length", min=1, max=64)}
    run = torch.ops.flash_attn_3._flash_attn_forward
    program = exported(lambda q, k, v: run(q, k, v, causal=True, num_splits=3)[0], arguments(), (length,) * 3)
    found, (outcome,) = rewrite(program, NAMES)
    assert outcome.what == "bridge.window_attention, window_left=-1, window_right=0"
    for queries in (1, 9, 40):
        args = arguments(queries=queries)
        torch.testing.assert_close(found.module()(*args), run(*args, causal=True)[0], rtol=2e-3, atol=2e-3)


def test_values_that_are_narrower():
    run = torch.ops.flash_attn_3._flash_attn_forward
    q, k, v = arguments()
    args = (q, k, v[..., :8])
    found, (outcome,) = rewrite(exported(lambda *given: run(*given, causal=True)[0], args), NAMES)
    assert outcome.replaced and len(calls(found, torch.ops.bridge.window_attention.default)) == 1
    torch.testing.assert_close(found.module()(*args), run(*args, causal=True)[0], rtol=2e-3, atol=2e-3)


def in_a_row(q, k, v, starts, *, window=(-1, -1), causal=True, others=None):
    """As flash_attn_varlen_func calls the operator."""
    run, others = torch.ops.flash_attn._flash_attn_varlen_forward, starts if others is None else others
    return run(q, k, v, starts, others, 64, 64, 0.0, 0.25, causal, *window)[0]


STARTS = ([0, 9], [0, 3, 3, 7, 9], [0, 0, 1, 9, 9], [0, 4, 6])  # empty sequences, and tokens of none


@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences(causal):
    q, k, v = (each[0] for each in arguments())
    tokens, sequences = {0: Dim("tokens", min=2, max=64)}, {0: Dim("starts", min=2, max=9)}
    args = (q, k, v, torch.tensor(STARTS[1], dtype=torch.int32))

    def function(*given):
        return in_a_row(*given, window=(2, 1), causal=causal)

    found, (outcome,) = rewrite(exported(function, args, (tokens, tokens, tokens, sequences)), NAMES)
    assert outcome.what.endswith("of packed sequences")
    for starts in STARTS:
        given = (q, k, v, torch.tensor(starts, dtype=torch.int32))
        y, last = found.module(check_guards=False)(*given), starts[-1]
        torch.testing.assert_close(y[:last], function(*given)[:last], rtol=2e-3, atol=2e-3)


SLOPES = torch.zeros(4)
STAYS = {
    "dropout_p": lambda q, k, v: second(q, k, v, dropout=0.1)[0],
    "alibi_slopes": lambda q, k, v: second(q, k, v, alibi=SLOPES)[0],
    "attention_chunk": lambda q, k, v: torch.ops.flash_attn_3._flash_attn_forward(q, k, v, attention_chunk=4)[0],
    "page_table": lambda q, k, v: torch.ops.flash_attn_3._flash_attn_forward(q, k, v, page_table=SLOPES)[0],
    "results ['0', '1'] are used": lambda q, k, v: second(q, k, v)[:2],
}


@pytest.mark.parametrize("reason", STAYS)
def test_what_stays(reason):
    program = exported(STAYS[reason], arguments())
    found, (outcome,) = rewrite(program, NAMES)
    assert found is program and reason in outcome.what


@pytest.mark.parametrize(("args", "reason"), [({"dtype": torch.float32}, "float32"), ({"head_dim": 264}, "264 wide")])
def test_what_the_op_does_not_take(args, reason):
    program = exported(lambda q, k, v: second(q, k, v)[0], arguments(**args))
    found, (outcome,) = rewrite(program, NAMES)
    assert found is program and reason in outcome.what


def test_sequences_that_are_packed_differently_stay():
    (q, k, v), starts = (each[0] for each in arguments()), torch.tensor([0, 9], dtype=torch.int32)
    program = exported(lambda *given: in_a_row(*given[:4], others=given[4]), (q, k, v, starts, starts.clone()))
    found, (outcome,) = rewrite(program, NAMES)
    assert found is program and "cu_seqlens_q and cu_seqlens_k are not one tensor" in outcome.what


def test_one_engine_with_plugins():
    assert NAMES[0] in pass_names(True)
    q, k, v = arguments()
    starts = torch.tensor([0, 4, 9], dtype=torch.int32)
    compiled = bridge.compile(
        Function(lambda *x: (second(*x[:3], causal=True)[0], in_a_row(*(y[0] for y in x[:3]), x[3]))).eval(),
        (q, k, v, starts),
        target="sm86",
    )
    assert compiled.plugin_counts() == {"window_attention": 2}


@pytest.mark.gpu
def test_an_engine_gives_what_the_operators_give():
    args = (*arguments(queries=40), torch.tensor([0, 4, 33, 40], dtype=torch.int32))

    def function(q, k, v, starts):
        return second(q, k, v, causal=True, window=(7, 0))[0], in_a_row(q[0], k[0], v[0], starts, window=(5, 2))

    expected = function(*args)
    on_gpu = tuple(each.cuda() for each in args)
    for y, wanted in zip(bridge.compile(Function(function).eval(), on_gpu)(*on_gpu), expected, strict=True):
        torch.testing.assert_close(y.cpu(), wanted, rtol=1e-2, atol=4e-3)
