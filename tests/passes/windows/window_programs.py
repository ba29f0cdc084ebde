"""Programs that attend with masks, and what the pass has to make of them."""

import torch
import torch.nn.functional as F
from programs import Function
from torch.export import Dim

from bridge.graph import capture
from bridge.passes import rewrite

WINDOW = torch.ops.bridge.window_attention.default
SDPA = torch.ops.aten.scaled_dot_product_attention.default
OF_MASKS = (torch.ops.aten.arange.default, torch.ops.aten.where.self, torch.ops.aten.index.Tensor)
BATCH, LENGTH = Dim("batch", min=1, max=4), Dim("length", min=1, max=48)
SIZES = [(1, 1), (2, 4), (3, 17)]
HEADS, GROUPS, HEAD_DIM = 4, 2, 8


def arguments(batch=2, length=7, keys=None):
    """q [B, H, S, D], k and v [B, G, T, D]."""
    generator = torch.Generator().manual_seed(batch * length)
    sizes = [(HEADS, length), *[(GROUPS, keys or length)] * 2]
    return tuple(torch.randn(batch, heads, count, HEAD_DIM, generator=generator) for heads, count in sizes)


def repeated(x):
    """[B, G, T, D] to [B, H, T, D], as transformers writes it."""
    batch, groups, length, head_dim = x.shape
    x = x[:, :, None].expand(batch, groups, HEADS // groups, length, head_dim)
    return x.reshape(batch, HEADS, length, head_dim)


def fused(q, k, v, mask, **settings):
    return F.scaled_dot_product_attention(q, repeated(k), repeated(v), attn_mask=mask, **settings)


def logits_of(q, k, scale=0.25):
    return torch.matmul(q, repeated(k).transpose(2, 3)) * scale


def positions(q, k):
    """[S, 1] and [T], the queries at the end of the keys."""
    return torch.arange(q.shape[2])[:, None] + (k.shape[2] - q.shape[2]), torch.arange(k.shape[2])


def export(function, dynamic=True, args=None):
    dims = ({0: BATCH, 2: LENGTH},) * 3 if dynamic else None
    return capture.export(Function(function).eval(), args or arguments(), {}, {"args": dims} if dims else None)


def calls(program, target=WINDOW):
    """The calls of an operator; those that are results in the order of the results."""
    results = torch.utils._pytree.tree_leaves(program.graph.output_node().args)
    found = program.graph.find_nodes(op="call_function", target=target)
    return sorted(found, key=lambda node: results.index(node) if node in results else -1)


def windows(program):
    """(window_left, window_right) of each call, and that nothing is left of its mask."""
    assert not any(calls(program, target) for target in OF_MASKS)
    return [(node.kwargs["window_left"], node.kwargs["window_right"]) for node in calls(program)]


def check_same(program, function, sizes=SIZES):
    module = program.module(check_guards=False)
    for size in sizes:
        args = arguments(*size)
        torch.testing.assert_close(module(*args), function(*args), rtol=2e-5, atol=2e-6)


def each_of(functions):
    """All of them in one program."""
    return lambda q, k, v: [function(q, k, v) for function in functions]


def check_found(function, *expected, dynamic=True):
    """The function's attentions become calls with the expected windows, and equal for other lengths."""
    program = export(function, dynamic)
    found, outcomes = rewrite(program, ["window_attention"])
    assert all(outcome.replaced for outcome in outcomes), outcomes
    assert windows(found) == list(expected)
    check_same(found, function, SIZES if dynamic else [(2, 7)])
    return found
