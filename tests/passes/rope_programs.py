"""Programs that rotate queries and keys, and what the pass has to make of them."""

import torch
from programs import Function
from torch.export import Dim

from bridge.graph import capture
from bridge.passes import rewrite

ROPE = torch.ops.bridge.rope.default
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # of the largest output
BATCH, LENGTH = Dim("batch", min=1, max=8), Dim("length", min=1, max=64)
SIZES = [(2, 5), (1, 1), (3, 8)]


def export(function, args, dims=None):
    return capture.export(Function(function).eval(), args, {}, {"args": dims} if dims else None)


def arguments(batch=2, length=5, dtype=torch.float32, pairs=8, heads=(4, 2), head_dim=16):
    """q and k [B, H, S, D], and angles [B, S, pairs]."""
    generator = torch.Generator().manual_seed(batch * length)
    tensors = [torch.randn(batch, h, length, head_dim, generator=generator).to(dtype) for h in heads]
    return (*tensors, torch.randn(batch, length, pairs, generator=generator))


DYNAMIC = ({0: BATCH, 2: LENGTH}, {0: BATCH, 2: LENGTH}, {0: BATCH, 1: LENGTH})


def calls(program):
    return program.graph.find_nodes(op="call_function", target=ROPE)


def check_same(program, function, args):
    dtype = args[0].dtype
    results = program.module(check_guards=False)(*args), function(*args)
    for actual, expected in zip(*map(torch.utils._pytree.tree_leaves, results), strict=True):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        largest = expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[dtype] * largest)


def check_found(write, program, dtype, pairs):
    found, outcomes = rewrite(program, ["rope"])
    assert len(calls(found)) == 1 and [outcome.replaced for outcome in outcomes] == [True], outcomes
    assert not calls(program), "the program that was given was changed"
    for batch, length in SIZES:
        check_same(found, both(write), arguments(batch, length, dtype, pairs))
    return found


def both(write):
    return lambda q, k, angles: (write(q, angles), write(k, angles))
