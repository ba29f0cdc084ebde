"""What comes near attention with a sliding window: windows that differ by one key, and masks that are none."""

import math

import pytest
import torch
from window_programs import (
    arguments,
    calls,
    check_found,
    check_same,
    each_of,
    export,
    fused,
    logits_of,
    positions,
    repeated,
)

from bridge.graph import capture
from bridge.passes import rewrite


def _sees(condition):
    """Attention whose mask is a condition on the positions of query and key."""

    def attend(q, k, v):
        return fused(q, k, v, condition(*positions(q, k)))

    return attend


# Conditions that differ by one key or by the side, and the windows that they show.
NEIGHBOURS = [
    (lambda i, j: (j <= i) & (j >= i - 3), (3, 0)),
    (lambda i, j: (j < i + 2) & (i - j < 3), (2, 1)),
    (lambda i, j: (j >= i) & (j < i + 3), (0, 2)),
    (lambda i, j: j > i - 3, (2, -1)),
    (lambda i, j: ~(2 * (i - j) >= 5) & (j <= i), (2, 0)),
    (lambda i, j: j == i, (0, 0)),
]


def test_neighbours_are_told_apart():
    check_found(each_of([_sees(condition) for condition, _ in NEIGHBOURS]), *(window for _, window in NEIGHBOURS))


# A condition, and a part of the reason to decline it.
OTHERS = [
    (lambda i, j: (j <= i) & ((i - j) % 2 == 0), "otherwise than by their distance"),
    (lambda i, j: (j <= i) & ((j == i) | (j < i - 2)), "hides keys between"),
    (lambda i, j: (j <= i) & ((j > i - 3) | (j == 0)), "does not depend on the distance"),  # with an attention sink
    (lambda i, j: (j <= i) & (2 * j > i), "does not depend on the distance"),
]


def test_other_conditions_are_left_alone():
    _check_declined([_sees(condition) for condition, _ in OTHERS], [reason for _, reason in OTHERS])


def _check_declined(functions, reasons):
    program = export(each_of(functions), False)
    found, outcomes = rewrite(program, ["window_attention"])
    assert found is program and len(outcomes) == len(reasons)
    for outcome, reason in zip(outcomes, reasons, strict=True):
        assert not outcome.replaced and reason in outcome.what, outcome


def _soft(q, k, v):
    query, key = positions(q, k)
    return (logits_of(q, k) + torch.where((key <= query) & (key > query - 3), 0.0, -1e4)).softmax(-1) @ repeated(v)


def _of_heads(q, k, v):
    query, key = positions(q, k)
    head = torch.arange(q.shape[1])[:, None, None]
    return fused(q, k, v, (key <= query) & (key > query - 3 - head))


def _strictly_earlier(q, k, v):
    """The first query sees no key: with the smallest number for all of them, it is the mean of all values."""
    query, key = positions(q, k)
    mask = torch.where((key < query) & (key > query - 3), 0.0, -65504.0)
    return (logits_of(q, k) + mask).softmax(-1) @ repeated(v)


def _weights_as_result(q, k, v):
    query, key = positions(q, k)
    mask = torch.where((key <= query) & (key > query - 3), 0.0, -math.inf)
    weights = (logits_of(q, k) + mask).softmax(-1)
    return weights @ repeated(v), weights


def _wide_values(q, k, v):
    query, key = positions(q, k)
    return fused(q, k, v.repeat(1, 1, 1, 33), (key <= query) & (key > query - 3))


def _sinks_of_queries(q, k, v):
    query, key = positions(q, k)
    mask = torch.where((key <= query) & (key > query - 3), 0.0, -math.inf)
    sinks = torch.arange(q.shape[2], dtype=q.dtype).reshape(1, 1, -1, 1).expand(q.shape[0], q.shape[1], -1, -1)
    return torch.cat([logits_of(q, k) + mask, sinks], -1).softmax(-1)[..., :-1] @ repeated(v)


# How attention is written, and a part of the reason to decline it.
NEAR_MISSES = [
    (_soft, "adds -10000 to logits, which hides no key for certain"),
    (_of_heads, "does not depend on the distance"),
    (_strictly_earlier, "may hide all keys of a query"),
    (_weights_as_result, "its weights are used elsewhere"),
    (_wide_values, "heads are 8 wide, values 264"),
    (_sinks_of_queries, "its sinks are not one number a head"),
]


def test_near_misses_are_left_alone():
    _check_declined([attend for attend, _ in NEAR_MISSES], [reason for _, reason in NEAR_MISSES])


class WithInput(torch.nn.Module):
    """Attention whose mask depends on an input."""

    def __init__(self, combine):
        super().__init__()
        self.combine = combine

    def forward(self, q, k, v, given):
        query, key = positions(q, k)
        return fused(q, k, v, self.combine(query, key, given))


@pytest.mark.parametrize(
    ("combine", "given", "reasons"),
    [
        (lambda i, j, x: (j <= i) & (j > i - 3) & x[:, None, None, :], torch.ones(2, 7).bool(), ["values of given"]),
        (lambda i, j, x: (j <= i) & x[:, None, None, :], torch.ones(2, 7).bool(), []),  # no window
        (lambda i, j, x: x, torch.ones(2, 1, 7, 7).bool(), ["values of given"]),
        (lambda i, j, x: x + torch.where(j > i - 3, 0.0, -math.inf), torch.ones(2, 1, 7, 7), []),  # a bias
    ],
)
def test_masks_that_depend_on_inputs(combine, given, reasons):
    program = capture.export(WithInput(combine).eval(), (*arguments(), given), {}, None)
    found, outcomes = rewrite(program, ["window_attention"])
    assert found is program and len(outcomes) == len(reasons)
    assert all(reason in outcome.what for reason, outcome in zip(reasons, outcomes, strict=True))


def test_a_vmap_that_stays_still_runs():
    """Nothing uses the begins and ends of its levels, which were removed as dead code."""

    def every_other(query, key):
        return (key <= query) & ((query - key) % 2 == 0)

    def attend(q, k, v):
        mask = torch.vmap(torch.vmap(every_other, in_dims=(None, 0)), in_dims=(0, None))
        query, key = positions(q, k)
        return fused(q, k, v, (key <= query) & (key > query - 3)), fused(q, k, v, mask(query.flatten(), key))

    found, outcomes = rewrite(export(attend, dynamic=False), ["window_attention"])
    assert [outcome.replaced for outcome in outcomes] == [True, False]
    check_same(found, attend, [(2, 7)])


def test_a_mask_that_is_written_in_place():
    """Its proof reads the functionalised program."""

    def attend(q, k, v):
        query, key = positions(q, k)
        mask = torch.zeros(q.shape[2], k.shape[2])
        mask.masked_fill_((key > query) | (key <= query - 3), -math.inf)
        return (logits_of(q, k) + mask).softmax(-1) @ repeated(v)

    program = export(attend, dynamic=False)
    found, (outcome,) = rewrite(program, ["window_attention"])
    assert outcome.replaced and len(calls(found)) == 1
    check_same(found, attend, [(2, 7)])
