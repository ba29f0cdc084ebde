"""Intervals of keys that differ from query to query, or from sequence to sequence, as `key_ranges`."""

import torch
from oracle import ahead, assert_same, interpreted
from window_programs import BATCH, LENGTH, arguments, calls, each_of, export, fused, logits_of, positions, repeated

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


def _at_the_start(q, k, v):
    """The queries at the start of the keys, where the op has them at the end."""
    query, key = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    return fused(q, k, v, (key <= query) & (key > query - 3))


def _longer_in_later_sequences(q, k, v):
    query, key = positions(q, k)
    sequence = torch.arange(q.shape[0])[:, None, None, None]
    return fused(q, k, v, (key <= query) & (key > query - 1 - 2 * sequence))


# Attention, and the window that is left beside the intervals.
FOUND = [
    (_masked(lambda i, j: (j < i) & (j > i - 3)), (2, -1)),  # the first query sees no key
    (_masked(lambda i, j: (j > i + 1) & (j < i + 4)), (-1, 3)),
    (_chunks_written_out, (-1, 0)),
    (_longer_in_later_sequences, (-1, 0)),
]


def test_intervals_of_positions():
    attend = each_of([attend for attend, _ in FOUND])
    program = export(attend)
    found, outcomes = rewrite(program, ["window_attention"])
    assert all(outcome.replaced and "with key_ranges" in outcome.what for outcome in outcomes) and len(outcomes) == 4
    sides = [(call.kwargs["window_left"], call.kwargs["window_right"]) for call in calls(found)]
    assert sides == [window for _, window in FOUND]
    module = found.module(check_guards=False)
    for size in [(1, 1), (3, 17)]:
        args = arguments(*size)
        torch.testing.assert_close(module(*args), zeros_for_nan(attend(*args)), rtol=2e-5, atol=2e-6)


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
