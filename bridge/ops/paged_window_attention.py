"""Attention of each query to one interval of the keys of a cache whose pages lie anywhere."""

import torch
from torch import Tensor

from bridge.core.op import only_shapes, op, readable, require
from bridge.core.tensors import Floating, Index, LikeFirst, LikeFirstOrFloat32
from bridge.ops.window_attention import (
    HEADS_FIRST,
    attend_to_seen,
    check_head_dim,
    check_logits,
    check_ranges,
    check_sinks,
    check_windows,
    seen_of_sequences,
)


@op
def paged_window_attention(
    q: Floating,
    k_cache: LikeFirst,
    v_cache: LikeFirst,
    block_table: Index,
    lengths: Index,
    sinks: LikeFirstOrFloat32 | None = None,
    key_ranges: Index | None = None,
    window_left: int = -1,
    window_right: int = 0,
    scale: float = 0.0,
    softcap: float = 0.0,
    layout: str = "bhsd",
) -> Tensor:
    """window_attention over a paged cache: a table says which page holds which keys of a sequence.

    Key j of sequence b is row j % page_size of page ``block_table[b, j // page_size]``, and there are ``lengths[b]`` of
    them. The queries are at their end: of S, query i has position lengths[b] - S + i. What it sees, and what is
    computed, is as in window_attention. Several sequences may have the same page.

    Args:
        q: [B, H, S, D] for layout "bhsd", [B, S, H, D] for "bshd"; float32, float16 or bfloat16 (float64 on CPU).
        k_cache, v_cache: [pages, page_size, G, D], the same dtype: the layout that vLLM and FlashInfer call NHD. Of a
            cache [pages, G, page_size, D] (HND) ``.transpose(1, 2)`` is read in place by the PyTorch op, and copied in
            an engine. Pages have any number of keys. H is a multiple of G: query head h reads head h // (H / G).
        block_table: [B, P] int32 or int64, the pages of each sequence in the order of their keys. Entries of pages that
            no query sees are not read, and may be anything.
        lengths: [B] int32 or int64, the keys of each sequence, those of the S queries included; 0 to P page_size. Fewer
            than S: the first queries are before all keys.
        sinks: [H], a logit of each query head; the dtype of q, or float32.
        key_ranges: [B or 1, S or 1, 2] int32 or int64: a query sees keys begin <= j < end alone, counted within its
            sequence. It may reach beyond 0 and the sequence's length.
        window_left, window_right: how many keys before and after its own position a query sees; -1: all of them.
        scale: factor of the dot products; 0 for 1 / sqrt(D).
        softcap: bound of the logits; 0 for none.
        layout: order of the dimensions of q, "bhsd" or "bshd".
    Returns:
        The shape and dtype of q, dense; logits, softmax and sums are float32. What is in a page beyond the keys that
        are seen has no effect, NaN included, as in window_attention.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit, and on CPU a length that the table has no room for,
            or a page that is seen and not in the cache; the message names the value. On CUDA and in engines such a
            length makes NaN of the sequence's results, such a page of those that see it and maybe of the sequence's
            others. Nothing is read out of bounds.
    Source: Kwon et al., https://arxiv.org/abs/2309.06180, section 4.1; see window_attention.
    """
    name = "paged_window_attention"
    check_logits(name, scale, softcap, layout)
    check_windows(name, window_left, window_right)
    heads = _check_caches(name, q, k_cache, v_cache, layout)
    batch, queries = q.shape[0], q.shape[2 if HEADS_FIRST[layout] else 1]
    _check_tables(name, block_table, lengths, batch)
    check_sinks(name, sinks, heads)
    check_ranges(name, key_ranges, batch, queries)
    if only_shapes():
        return q.new_empty(q.shape)
    page_size = k_cache.shape[1]
    room = block_table.shape[1] * page_size
    _check_lengths(name, lengths, room)
    seen = seen_of_sequences(queries, room, lengths, key_ranges, window_left, window_right)
    pages = _check_pages(name, block_table, seen, k_cache.shape[0], page_size)
    keys, values = (_gathered(cache, pages) for cache in (k_cache, v_cache))
    if not HEADS_FIRST[layout]:
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    return attend_to_seen(q, keys, values, seen, sinks, scale, softcap, layout)


def _gathered(cache: Tensor, pages: Tensor) -> Tensor:
    """From [pages, page_size, G, D] and [B, P] to [B, G, P page_size, D]; without pages zeros."""
    if cache.shape[0] == 0:
        cache = torch.cat((cache, cache.new_zeros(1, *cache.shape[1:])))
    return cache[pages].flatten(1, 2).transpose(1, 2)


def _check_lengths(op: str, lengths: Tensor, room: int) -> None:
    if not readable(lengths):
        return
    for sequence, length in enumerate(lengths.tolist()):
        fits = 0 <= length <= room
        require(
            fits, f"{op}: lengths[{sequence}] is {length}, expected 0 to {room}, the keys that block_table has room for"
        )


def _check_pages(op: str, table: Tensor, seen: Tensor, pages: int, page_size: int) -> Tensor:
    """[B, P], the table with 0 where no query sees a page; seen: [B, S, P page_size].

    A page that is seen, and not there, is an error where values can be read, and any other page elsewhere.
    """
    wanted = seen.any(1).unflatten(1, (table.shape[1], page_size)).any(-1)  # [B, P]
    wrong = wanted & ((table < 0) | (table >= pages))
    if readable(table) and bool(wrong.any()):
        sequence, place = wrong.nonzero()[0].tolist()
        number = int(table[sequence, place])
        require(False, f"{op}: block_table[{sequence}, {place}] is {number}, expected a page of the {pages} of k_cache")
    return table.masked_fill(~wanted | wrong, 0).long()


def _check_tables(op: str, table: Tensor, lengths: Tensor, batch: int) -> None:
    fits = table.dim() == 2 and table.shape[0] == batch
    require(fits, f"{op}: block_table has shape {tuple(table.shape)}, expected ({batch}, pages of a sequence)")
    fits = lengths.dim() == 1 and lengths.shape[0] == batch
    require(fits, f"{op}: lengths has shape {tuple(lengths.shape)}, expected ({batch},), one a sequence")


def _check_caches(op: str, q: Tensor, k: Tensor, v: Tensor, layout: str) -> int:
    """That the shapes fit; returns the heads of q."""
    shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
    require(all(t.dim() == 4 for t in (q, k, v)), f"{op}: q, k_cache and v_cache must have 4 dimensions, got {shapes}")
    same = all(a == b for a, b in zip(k.shape, v.shape, strict=True))
    require(same, f"{op}: k_cache and v_cache differ in shape: {tuple(k.shape)} and {tuple(v.shape)}")
    fits = q.shape[3] == k.shape[3]
    require(fits, f"{op}: q and k_cache differ in head_dim: {tuple(q.shape)} and {tuple(k.shape)}")
    check_head_dim(op, q.shape[3])
    text = f"{op}: k_cache has shape {tuple(k.shape)}, expected pages of at least 1 key in dimension 1"
    require(k.shape[1] > 0, text)
    heads, groups = q.shape[1 if HEADS_FIRST[layout] else 2], k.shape[2]
    fits = groups > 0 and heads % groups == 0
    require(fits, f"{op}: q has {heads} heads, expected a multiple of the {groups} of k_cache")
    return heads
