"""Attention with random masks of positions: whatever the pass replaces has the model's results."""

import random

import torch
from window_programs import arguments, each_of, export, fused, positions

from bridge.passes import rewrite

COUNT = 16


def _part(generator, query, key):
    """A random comparison of positions."""
    shift, size = generator.randrange(-4, 5), generator.randrange(2, 5)
    return generator.choice(
        [
            lambda: key <= query + shift,
            lambda: key > query - abs(shift),
            lambda: (query - key).abs() <= abs(shift),
            lambda: key // size == query // size,
            lambda: (key - shift) // size <= query // size,
            lambda: key >= abs(shift),
            lambda: 2 * key < query + 9,
            lambda: query >= abs(shift),
            lambda: key != query + shift,
        ]
    )()


def masked(seed):
    """Attention with a random mask of two or three comparisons."""

    def attend(q, k, v):
        generator = random.Random(seed)
        from_the_end = generator.random() < 0.5
        query, key = positions(q, k) if from_the_end else (torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2]))
        mask = _part(generator, query, key).expand(q.shape[2], k.shape[2])
        for _ in range(generator.randrange(1, 3)):
            other = _part(generator, query, key)
            mask = mask | other if generator.random() < 0.15 else mask & other
        return fused(q, k, v, mask)

    return attend


def test_random_masks():
    attend = each_of([masked(seed) for seed in range(COUNT)])
    for keys in (9, 12):
        args = arguments(2, 9, keys)
        found, outcomes = rewrite(export(attend, False, args), ["window_attention"])
        for actual, expected in zip(found.module()(*args), attend(*args), strict=True):
            torch.testing.assert_close(torch.nan_to_num(actual), torch.nan_to_num(expected), rtol=2e-5, atol=2e-6)
        assert 0 < sum(outcome.replaced for outcome in outcomes) < COUNT
        assert not any("cannot read" in outcome.what for outcome in outcomes), outcomes
