"""Sliding windows in the ways in which models write their masks, and how attention itself is written."""

import math

import pytest
import torch
import torch.nn.functional as F
from window_programs import (
    HEAD_DIM,
    HEADS,
    SDPA,
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
    windows,
)

from bridge.passes import rewrite

SMALLEST = torch.finfo(torch.float32).min


def _compared(q, k):
    query, key = positions(q, k)
    return (key <= query) & (key > query - 3)


def _by_distance(q, k):
    query, key = positions(q, k)
    return (query - key).abs() <= 2


def _union(q, k):
    """Of two windows that overlap, one of them by the negative."""
    query, key = positions(q, k)
    return ((key > query - 3) & (key <= query)) | ~((key < query - 1) | (key > query + 1))


def _of_ones(q, k):
    ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    return ones.tril() & ones.triu(-2)


def _packed(q, k):
    """transformers' mask: with documents, of which there is one, and positions by which the mask is indexed."""
    batch, length = q.shape[0], q.shape[2]
    ids = torch.arange(length)[None].expand(batch, -1)
    documents = (torch.diff(ids, prepend=ids[:, :1] - 1, dim=-1) != 1).cumsum(-1)
    rows, query, key = torch.arange(batch)[:, None, None, None], positions(q, k)[0], positions(q, k)[1]
    seen = (ids[rows, key] <= ids[rows, query]) & (ids[rows, key] > ids[rows, query] - 3)
    return (seen & (documents[rows, query] == documents[rows, key])).expand(batch, 1, length, length)


def _by_vmap(q, k):
    """As older releases of transformers make masks, and later ones those of their users."""

    def seen(batch, query, key):
        return (key <= query) & (key > query - 3)

    for dims in ((None, None, 0), (None, 0, None), (0, None, None)):
        seen = torch.vmap(seen, in_dims=dims, out_dims=0)
    return seen(torch.arange(q.shape[0]), torch.arange(q.shape[2]), torch.arange(k.shape[2])).unsqueeze(1)


def _filled(q, k):
    """The original Llama's and Mistral's: a matrix of infinities, with a triangle of zeros."""
    mask = torch.full((q.shape[2], k.shape[2]), -math.inf)
    return torch.triu(mask, diagonal=1) + torch.full_like(mask, -math.inf).tril(diagonal=-3)


def _of_numbers(q, k):
    """1 where a key is visible, to 0; 0 to the smallest number."""
    return (1.0 - _compared(q, k)[None, None].to(q.dtype)) * SMALLEST


def _chosen(q, k):
    return torch.where(_compared(q, k), torch.zeros((), dtype=q.dtype), SMALLEST).expand(q.shape[0], 1, -1, -1)


# How the mask is written, and the window that it shows.
MASKS = [
    (_compared, (2, 0)),
    (_by_distance, (2, 2)),
    (_union, (2, 1)),
    (_of_ones, (2, 0)),
    (_packed, (2, 0)),
    (_by_vmap, (2, 0)),
    (_filled, (2, 0)),
    (_of_numbers, (2, 0)),
    (_chosen, (2, 0)),
]


def test_masks_of_fused_attention():
    check_found(each_of([_masked_by(mask) for mask, _ in MASKS]), *(window for _, window in MASKS))


def _masked_by(mask):
    return lambda q, k, v: fused(q, k, v, mask(q, k))


@pytest.mark.parametrize("length", ["static", "dynamic"])
def test_a_mask_that_the_model_holds(length):
    """GPT-Neo's local layers: a table for the longest sequence, of which each call takes the first rows."""
    ones = torch.ones(1, 1, 48, 48, dtype=torch.bool)
    table = ones.tril() & ones.triu(-2)

    def attend(q, k, v):
        return fused(q, k, v, table[:, :, k.shape[2] - q.shape[2] : k.shape[2], : k.shape[2]])

    check_found(attend, (2, 0), dynamic=length == "dynamic")


def _added(q, k, v):
    weights = (logits_of(q, k) + _of_numbers(q, k)).softmax(-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(F.dropout(weights, 0.1, training=False), repeated(v))


def _masked_fill(q, k, v):
    weights = logits_of(q, k).masked_fill(~_compared(q, k), -math.inf).softmax(-1)
    return weights @ v.repeat_interleave(HEADS // 2, dim=1)


def _where_and_sum(q, k, v):
    """A causal mask, and a window apart from it; the logits are the other argument of where."""
    query, key = positions(q, k)
    logits = torch.where(key > query, torch.tensor(-1e9), logits_of(q, k))
    return (logits + torch.where(key > query - 3, 0.0, -math.inf)).softmax(-1) @ repeated(v)


def _divided_and_capped(q, k, v):
    logits = torch.tanh(torch.matmul(q, repeated(k).transpose(-1, -2)) / 4.0 / 20.0) * 20.0
    return (logits + _of_numbers(q, k)).softmax(-1) @ repeated(v)


def _with_sinks(q, k, v):
    sinks = torch.arange(1.0, HEADS + 1).reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], -1)
    logits = torch.cat([logits_of(q, k) + _of_numbers(q, k), sinks], dim=-1)
    weights = (logits - logits.max(dim=-1, keepdim=True).values).softmax(-1)[..., :-1]
    return weights @ repeated(v)


def test_attention_that_is_written_out():
    attentions = [_added, _masked_fill, _where_and_sum, _divided_and_capped, _with_sinks]
    check_found(each_of(attentions), *[(2, 0)] * len(attentions))


def test_groups_of_heads_are_not_repeated():
    def attend(q, k, v):
        mask = _compared(q, k)
        return fused(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask, scale=0.5, enable_gqa=True)

    found = check_found(attend, (2, 0), (2, 0), dynamic=False)
    heads = [[node.meta["val"].shape[1] for node in call.args[:3]] for call in calls(found)]
    assert heads == [[HEADS, 2, 2]] * 2
    assert [call.kwargs.get("scale") for call in calls(found)] == [None, 0.5]


def _narrow_values(q, k, v):
    return fused(q, k, v[..., :3], _compared(q, k))


def _wide_values(q, k, v):
    return fused(q[..., :5], k[..., :5], v, _compared(q, k))


def _wide_values_of_scaled_logits(q, k, v):
    return fused(q[..., :5], k[..., :5], v, _compared(q, k), scale=0.3)


def _narrow_values_written_out(q, k, v):
    weights = logits_of(q, k).masked_fill(~_compared(q, k), SMALLEST).softmax(-1)
    return weights @ repeated(v[..., :3])


def test_values_that_are_not_as_wide_as_queries():
    """Zeros fill up what is narrower; the results are as wide as the values, with the scale of the queries."""
    cases = [_narrow_values, _wide_values, _wide_values_of_scaled_logits, _narrow_values_written_out]
    found = check_found(each_of(cases), *[(2, 0)] * 4)
    assert {call.args[index].meta["val"].shape[3] for call in calls(found) for index in range(3)} == {HEAD_DIM}


def test_queries_at_the_end_of_more_keys():
    """As with a KV cache; the number of queries and keys is fixed."""
    args = arguments(2, 3, 9)
    for queries in (1, 3):
        given = (args[0][:, :, :queries], *args[1:])
        program = export(lambda q, k, v: fused(q, k, v, _compared(q, k)), False, given)
        found, _ = rewrite(program, ["window_attention"])
        assert len(calls(found)) == 1
        torch.testing.assert_close(found.module()(*given), program.module()(*given))


def test_a_mask_that_is_used_elsewhere_stays_there():
    def attend(q, k, v):
        mask = _compared(q, k)
        return fused(q, k, v, mask), mask.sum(-1)

    found, _ = rewrite(export(attend, dynamic=False), ["window_attention"])
    assert len(calls(found)) == 1
    check_same(found, attend, [(2, 7)])


def test_decomposed_operators():
    """As torch_tensorrt lowers them: diff becomes a concatenation and slices."""
    table = torch.export.default_decompositions()
    table.pop(SDPA)
    program = export(_masked_by(_packed), dynamic=False).run_decompositions(table)
    assert calls(program, torch.ops.aten.cat.default) and not calls(program, torch.ops.aten.diff.default)
    found, (outcome,) = rewrite(program, ["window_attention"])
    assert outcome.replaced and windows(found) == [(2, 0)]
    check_same(found, _masked_by(_packed), [(2, 7)])


def _causal(q, k):
    query, key = positions(q, k)
    return key <= query


def _wide(q, k):
    """A window of as many keys as there can be."""
    query, key = positions(q, k)
    return (key <= query) & (key > query - 48)


def _everything(q, k):
    return torch.ones(1, 1, q.shape[2], k.shape[2], dtype=torch.bool)


def test_masks_without_a_window_become_what_tensorrt_has():
    attend = each_of([_masked_by(mask) for mask in (_causal, _wide, _everything)])
    found = check_found(attend)  # no call
    assert [call.args[3:] for call in calls(found, SDPA)] == [(None, 0.0, causal) for causal in (True, True, False)]


def test_attention_written_out_without_a_window_stays():
    def attend(q, k, v):
        return (logits_of(q, k) + torch.where(_causal(q, k), 0.0, SMALLEST)).softmax(-1) @ repeated(v)

    program = export(attend, dynamic=False)
    assert rewrite(program, ["window_attention"]) == (program, [])
