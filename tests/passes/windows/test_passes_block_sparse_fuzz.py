"""Random conditions on block numbers: what is replaced computes the same."""

import random

import torch
from window_programs import Function, arguments, fused

from bridge.graph import capture
from bridge.passes import rewrite

CASES = 40


def _comparison(pick):
    """One of a query i and a key j; most of them look at block numbers alone."""
    a, b = pick.choice([1, 5, 16, 32, 48]), pick.choice([8, 16, 16, 32, 48])
    few, number, end = pick.randint(0, 3), pick.randint(-2, 3), pick.choice([16, 20, 32, 48])
    return pick.choice(
        [
            lambda i, j: (i // a - j // b).abs() <= few,
            lambda i, j: (i // a + j // b) % 3 == few % 3,
            lambda i, j: (2 * (i // a) - j // b) > number,
            lambda i, j: (j // b // 2 + i // a) % 3 < 2,
            lambda i, j: j // (2 * b) <= i // (2 * a),
            lambda i, j: j // b == number,
            lambda i, j: j < end,
            lambda i, j: i >= end,
        ]
    )


def _condition(pick):
    parts = [(_comparison(pick), pick.choice("&|&"), pick.random() < 0.2) for _ in range(pick.randint(1, 4))]
    causal = pick.random() < 0.3

    def condition(i, j):
        shown = None
        for compare, combine, turned in parts:
            part = compare(i, j) ^ turned
            shown = part if shown is None else (shown & part if combine == "&" else shown | part)
        return shown & (j <= i) if causal else shown

    return condition


def test_what_is_replaced_computes_the_same():
    replaced = 0
    for seed in range(CASES):
        pick = random.Random(seed)
        length, condition = pick.choice([33, 64, 70]), _condition(pick)
        args = arguments(1, length)

        def attend(q, k, v, length=length, condition=condition):
            position = torch.arange(length)
            return fused(q, k, v, condition(position[:, None], position).expand(length, length))

        program = capture.export(Function(attend).eval(), args, {}, None)
        found, outcomes = rewrite(program, ["block_sparse_attention"])
        assert not any("cannot read" in outcome.what for outcome in outcomes), (seed, outcomes)
        if found is not program:
            replaced += 1
            torch.testing.assert_close(found.module()(*args), attend(*args), rtol=1e-5, atol=1e-5, msg=f"seed {seed}")
    assert replaced > CASES // 8
