"""Intervals of keys that differ from query to query, or from sequence to sequence, as `key_ranges`."""

import math

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from window_programs import (
    BATCH,
    HEADS,
    LENGTH,
    arguments,
    calls,
    each_of,
    export,
    fused,
    logits_of,
    positions,
    repeated,
)

from bridge.graph import capture
from bridge.passes import rewrite


def zeros_for_nan(results):
    """A query without keys gives zeros. On the CPU, PyTorch gives zeros or NaN, by the kernel that it chooses."""
    return [torch.nan_to_num(each) for each in torch.utils._pytree.tree_leaves(results)]


def _masked(condition):
    return lambda q, k, v: fused(q, k, v, condition(*positions(q, k)))


def _chunks_written_out(q, k, v):
    """Llama 4's: a query sees the earlier keys of its chunk of 4."""
    query, key = positions(q, k)
    mask = torch.where((key <= query) & (query // 4 == key // 4), 0.0, -65504.0)
    return (logits_of(q, k) + mask).softmax(-1) @ repeated(v)


def _hidden_chunks(q, k, v):
    """By what is hidden: later keys, and those of other chunks."""
    query, key = positions(q, k)
    hidden = (key > query) | (query // 4 != key // 4)
    return logits_of(q, k).masked_fill(hidden, -math.inf).softmax(-1) @ repeated(v)


def _at_the_start(q, k, v):
    """The queries at the start of the keys, where the op has them at the end."""
    query, key = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    return fused(q, k, v, (key <= query) & (key > query - 3))


def _longer_in_later_sequences(q, k, v):
    query, key = positions(q, k)
    sequence = torch.arange(q.shape[0])[:, None, None, None]
    return fused(q, k, v, (key <= query) & (key > query - 1 - 2 * sequence))


def _chunks(condition, size=5):
    """Attention by the distance of the chunks of keys and queries, as Qwen2.5-Omni's decoder of sound has it."""
    return _masked(lambda i, j: condition(j // size - i // size))


# Attention, and the window that is left beside the intervals.
FOUND = [
    (_chunks(lambda d: (d >= -1.0) & (d <= 0.0)), (-1, -1)),
    (_chunks(lambda d: (d > -2) & (d < 2)), (-1, -1)),
    (_chunks(lambda d: ~((d < 0) | (d > 1.0)), 24), (-1, -1)),
    (_hidden_chunks, (-1, 0)),
    (_masked(lambda i, j: ((j + 3) // 4 >= i // 4) & (1 - j // 3 >= -(i // 3))), (-1, -1)),
    (_masked(lambda i, j: (j // 4 + 1 >= i // 4) & (j <= i)), (-1, 0)),
    (_masked(lambda i, j: (j < i) & (j > i - 3)), (2, -1)),  # the first query sees no key
    (_masked(lambda i, j: (j > i + 1) & (j < i + 4)), (-1, 3)),
    (_chunks_written_out, (-1, 0)),
    (_longer_in_later_sequences, (-1, 0)),
]


def test_intervals_of_positions():
    attend = each_of([attend for attend, _ in FOUND])
    program = export(attend)
    found, outcomes = rewrite(program, ["window_attention"])
    assert all(outcome.replaced and "with key_ranges" in outcome.what for outcome in outcomes)
    assert len(outcomes) == len(FOUND)
    sides = [(call.kwargs["window_left"], call.kwargs["window_right"]) for call in calls(found)]
    assert sides == [window for _, window in FOUND]
    module = found.module(check_guards=False)
    for size in [(1, 1), (3, 17)]:
        args = arguments(*size)
        torch.testing.assert_close(module(*args), zeros_for_nan(attend(*args)), rtol=2e-5, atol=2e-6)


HALF = torch.tensor(-4096.0, dtype=torch.float16)
# Distances of chunks that are compared with fractions, with numbers that a dtype rounds to, or twice; and other chunks.
STAYS = [
    _chunks(lambda d: (d >= -1.5) & (d <= 0)),
    _chunks(lambda d: (d >= HALF) & (d <= 0), 1),
    _chunks(lambda d: (d >= -float(2**25)) & (d <= 0), 1),
    _chunks(lambda d: (2 * d >= -1) & (d <= 0)),
    _masked(lambda i, j: (j // 5 - j // 3 >= i // 5) & (j <= i)),
    _masked(lambda i, j: (j // 5 % 2 >= i // 5) & (j <= i)),
]


def test_other_comparisons_of_chunks_are_left_alone():
    attend = each_of(STAYS)
    program = export(attend, False)
    found, outcomes = rewrite(program, ["window_attention"])
    assert found is program and len(outcomes) == len(STAYS), outcomes


def test_queries_at_the_start_of_more_keys():
    args = arguments(2, 3, 9)
    found, (outcome,) = rewrite(export(_at_the_start, False, args), ["window_attention"])
    assert outcome.replaced
    torch.testing.assert_close(found.module()(*args), _at_the_start(*args))


class WithLengths(torch.nn.Module):
    """Padded sequences, and a static cache: positions are those of an input."""

    def forward(self, q, k, v, lengths, positions_of_queries):
        query, key = positions(q, k)
        window = (key <= query) & (key > query - 3)
        padded = window & (key < lengths[:, None, None, None])
        at = positions_of_queries[:, None]
        return fused(q, k, v, padded), fused(q, k, v, (key <= at) & (key > at - 4))


def test_lengths_and_positions_that_are_inputs():
    model = WithLengths().eval()
    given = (*arguments(2, 9), torch.tensor([3, 9], dtype=torch.int32), torch.arange(2, 11))
    shapes = {name: {0: BATCH, 2: LENGTH} for name in "qkv"}
    shapes |= {"lengths": {0: BATCH}, "positions_of_queries": {0: LENGTH}}
    with interpreted():
        compiled = ahead(model, given, shapes)
        assert_same(list(compiled(*given)), zeros_for_nan(model(*given)), rtol=2e-5, atol=2e-6)
        other = (*arguments(3, 17), torch.tensor([0, 17, 5], dtype=torch.int32), torch.arange(-1, 16))
        assert_same(list(compiled(*other)), zeros_for_nan(model(*other)), rtol=2e-5, atol=2e-6)
    assert compiled.plugin_counts() == {"window_attention": 2}


class OfHeads(torch.nn.Module):
    def forward(self, q, k, v, reach):
        query, key = positions(q, k)
        return fused(q, k, v, (key <= query) & (key > query - reach[:, None, None]))


def test_windows_of_heads_are_left_alone():
    program = capture.export(OfHeads().eval(), (*arguments(), torch.arange(1, 5)), {}, None)
    found, (outcome,) = rewrite(program, ["window_attention"])
    assert found is program and "depends on the values of reach" in outcome.what


class OfAStaticCache(torch.nn.Module):
    """Attention that is written out: keys up to a position that is an input, or those that an input shows."""

    def __init__(self, sinks=True, shown=False):
        super().__init__()
        self.sinks = torch.nn.Parameter(torch.linspace(-1, 1, HEADS)) if sinks else None
        self.shown = shown

    def forward(self, q, k, v, given):
        key = torch.arange(k.shape[2])
        seen = given[:, None, None, :] if self.shown else key <= given + torch.arange(q.shape[2])[:, None]
        logits = logits_of(q, k).masked_fill(~seen, torch.finfo(q.dtype).min)
        if self.sinks is None:
            return logits.softmax(-1) @ repeated(v)
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(*q.shape[:3], 1)
        return torch.cat([logits, sinks], -1).softmax(-1)[..., :-1] @ repeated(v)


@pytest.mark.parametrize("queries", [1, 3])
def test_attention_with_sinks_to_the_filled_part_of_a_cache(queries):
    """TensorRT's attention has no sinks. A query that sees no key gives zeros, which the sink makes."""
    model, (q, k, v) = OfAStaticCache().eval(), arguments(2, queries, 9)
    program = capture.export(model, (q, k, v, torch.tensor(4)), {}, None)
    found, (outcome,) = rewrite(program, ["window_attention"])
    assert outcome.what == (
        "bridge.window_attention, window_left=-1, window_right=-1, scale=0.25, with sinks, with key_ranges"
    )
    for position in (4, 0, 8, -9):
        given = (q, k, v, torch.tensor(position))
        torch.testing.assert_close(found.module()(*given), model(*given), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("model", "given", "reasons"),
    [
        (OfAStaticCache(sinks=False), torch.tensor(4), ["its mask depends on the values of given"]),
        (OfAStaticCache(shown=True), torch.ones(2, 9, dtype=torch.bool), ["its mask depends on the values of given"]),
        (OfAStaticCache(sinks=False, shown=True), torch.ones(2, 9, dtype=torch.bool), []),
    ],
    ids=["without sinks", "other keys", "neither"],
)
def test_what_shows_no_interval_or_has_no_sinks_stays(model, given, reasons):
    program = capture.export(model.eval(), (*arguments(2, 3, 9), given), {}, None)
    found, outcomes = rewrite(program, ["window_attention"])
    assert found is program and [outcome.what for outcome in outcomes] == reasons
