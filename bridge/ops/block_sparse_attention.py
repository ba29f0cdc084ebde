"""Attention in which each block of queries sees some blocks of keys, as a mask tensor says."""

import torch
from torch import Tensor

from bridge.core.op import only_shapes, op, require
from bridge.core.tensors import Floating, Index, LikeFirst, Mask
from bridge.ops.window_attention import (
    attend,
    by_group,
    check_heads,
    check_logits,
    check_ranges,
    from_groups,
    seen_keys,
)


@op
def block_sparse_attention(
    q: Floating,
    k: LikeFirst,
    v: LikeFirst,
    block_mask: Mask,
    key_ranges: Index | None = None,
    query_block: int = 128,
    key_block: int = 128,
    causal: bool = False,
    scale: float = 0.0,
    softcap: float = 0.0,
    layout: str = "bhsd",
) -> Tensor:
    """Scaled dot-product attention of each block of queries to the blocks of keys that a mask names.

    Query i is in block i // query_block, key j in block j // key_block; the last blocks may be shorter. A query sees
    the keys of the blocks that the mask has for its own, as far as they are within its range of `key_ranges` and, with
    `causal`, not after it: of S queries and T keys, query i has position T - S + i. A logit is scale q·k, or
    softcap tanh(scale q·k / softcap), and the result is softmax(logits) v. A query that sees no key gives zeros.

    A model may compute the mask. Blocks of keys that it lacks are not read.

    Args:
        q: [B, H, S, D] for layout "bhsd", [B, S, H, D] for "bshd"; float32, float16 or bfloat16 (float64 on CPU).
        k, v: [B, G, T, D] or [B, T, G, D], the same dtype. H is a multiple of G: query head h reads head h // (H / G).
        block_mask: [B or 1, M, ceil(S / query_block), ceil(T / key_block)], bool, or int32 with 0 for false. M divides
            H: query head h has mask h // (H / M), so that 1 is one for all, G one a key head and H one a query head.
        key_ranges: [B or 1, S or 1, 2] int32 or int64: a query sees keys begin <= j < end alone, as in
            window_attention.
        query_block, key_block: queries and keys of a block. 16-bit dtypes are computed on tensor cores where key_block
            is a multiple of 16; they waste the less the nearer query_block times the heads that share a mask and a key
            head comes to a multiple of 16, 64 or 128.
        causal: whether a query sees no key after its own position.
        scale: factor of the dot products; 0 for 1 / sqrt(D).
        softcap: bound of the logits; 0 for none.
        layout: order of the dimensions, "bhsd" or "bshd".
    Returns:
        The shape and dtype of q, dense; logits, softmax and sums are float32. Keys and values that no query of a block
        sees have no effect on it, NaN included. A NaN or an infinity of `v` in a block of keys may make NaN of queries
        that see others of its keys.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit; the message names the value.
    Source: Child et al., https://arxiv.org/abs/1904.10509, section 5.5; Zaheer et al., https://arxiv.org/abs/2007.14062,
        section 2; blocks chosen by the model: Yuan et al., https://arxiv.org/abs/2502.11089, section 3.3.2.
    """
    name = "block_sparse_attention"
    check_logits(name, scale, softcap, layout)
    for which, size in (("query_block", query_block), ("key_block", key_block)):
        require(size > 0, f"{name}: {which} is {size}, expected at least 1")
    heads, batch, queries = check_heads(name, q, k, v, layout)
    keys = k.shape[2 if layout == "bhsd" else 1]
    _check_mask(block_mask, batch, heads, (queries, keys), (query_block, key_block))
    check_ranges(name, key_ranges, batch, queries)
    if only_shapes():
        return q.new_empty(q.shape)
    q_by_group, k_by_group, v_by_group = by_group(q, k, v, layout)
    scale = scale or q.shape[3] ** -0.5
    results = []
    for i in range(block_mask.shape[2]):
        rows = slice(i * query_block, min((i + 1) * query_block, queries))
        visited = _keys_of_blocks(block_mask[:, :, i], key_block, keys, q_by_group.shape[1:3])
        interval = seen_keys(queries, keys, key_ranges, -1, 0 if causal else -1, q.device, rows)
        seen = visited & interval[:, None, None]  # [B or 1, G or 1, H / G or 1, rows, T]
        hidden = ~seen.any(-2)[..., None]
        only_k, only_v = (t.masked_fill(hidden, 0.0) for t in (k_by_group, v_by_group))
        results.append(attend(q_by_group[:, :, :, rows], only_k, only_v, seen, None, scale, softcap))
    return from_groups(torch.cat(results, 3) if results else q_by_group, q.dtype, layout)


def _keys_of_blocks(row: Tensor, key_block: int, keys: int, heads: torch.Size) -> Tensor:
    """From [B or 1, M, key blocks] to [B or 1, G or 1, H / G or 1, 1, T]; heads: G and H / G."""
    count = heads[0] * heads[1]
    of_keys = row.bool().repeat_interleave(min(key_block, max(keys, 1)), -1)[..., :keys]
    if row.shape[1] == 1:
        return of_keys[:, :, None, None]
    return of_keys.repeat_interleave(count // row.shape[1], 1).unflatten(1, heads)[..., None, :]


def _check_mask(mask: Tensor, batch: int, heads: int, lengths: tuple[int, int], sizes: tuple[int, int]) -> None:
    # Written with floors, which torch simplifies where extents are symbolic.
    blocks = [(length + size - 1) // size for length, size in zip(lengths, sizes, strict=True)]
    fits = mask.dim() == 4 and (mask.shape[0] == batch or mask.shape[0] == 1)
    fits = fits and mask.shape[1] > 0 and heads % mask.shape[1] == 0
    fits = fits and mask.shape[2] == blocks[0] and mask.shape[3] == blocks[1]
    require(
        fits,
        f"block_sparse_attention: block_mask has shape {tuple(mask.shape)}, expected "
        f"({batch} or 1, a divisor of {heads}, {blocks[0]}, {blocks[1]}): "
        f"blocks of {sizes[0]} queries and {sizes[1]} keys",
    )
