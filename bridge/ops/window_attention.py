"""Attention in which each query sees one interval of keys: sliding windows, padding, packed sequences."""

import math

import torch
from torch import Tensor

from bridge.core.op import only_shapes, op, require
from bridge.core.tensors import Floating, Index, LikeFirst, LikeFirstOrFloat32

MAX_HEAD_DIM = 256
"""Largest head_dim: the kernels hold a tile of queries of that width."""

HEADS_FIRST = {"bhsd": True, "bshd": False}
"""Values of `layout`: whether heads come before tokens."""


@op
def window_attention(
    q: Floating,
    k: LikeFirst,
    v: LikeFirst,
    sinks: LikeFirstOrFloat32 | None = None,
    key_ranges: Index | None = None,
    window_left: int = -1,
    window_right: int = 0,
    scale: float = 0.0,
    softcap: float = 0.0,
    layout: str = "bhsd",
) -> Tensor:
    """Scaled dot-product attention of each query to one interval of keys.

    The queries are at the end of the keys, as with a KV cache: of S queries and T keys, query i has position
    p = T - S + i. It sees the keys j with p - window_left <= j <= p + window_right that are within its range of
    `key_ranges`. A logit is scale q·k, or softcap tanh(scale q·k / softcap), and the result is softmax(logits) v, where
    a sink is one more logit, without a value. A query that sees no key gives zeros.

    Args:
        q: [B, H, S, D] for layout "bhsd", [B, S, H, D] for "bshd"; float32, float16 or bfloat16 (float64 on CPU).
        k, v: [B, G, T, D] or [B, T, G, D], the same dtype. H is a multiple of G: query head h reads head h // (H / G).
        sinks: [H], a logit of each query head; the dtype of q, or float32.
        key_ranges: [B or 1, S or 1, 2] int32 or int64: a query sees keys begin <= j < end alone. With the lengths of
            padded sequences this is ``torch.stack((0 * lengths, lengths), -1)[:, None]``. It may reach beyond 0 and T.
        window_left, window_right: how many keys before and after its own position a query sees; -1: all of them.
        scale: factor of the dot products; 0 for 1 / sqrt(D).
        softcap: bound of the logits; 0 for none.
        layout: order of the dimensions, "bhsd" or "bshd".
    Returns:
        The shape and dtype of q, dense; logits, softmax and sums are float32. Keys and values before the first or after
        the last key that a query of the same sequence sees have no effect, NaN included. A NaN or an infinity of `v`
        between these may make NaN of queries that do not see it.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit; the message names the value.
    Source: Vaswani et al., https://arxiv.org/abs/1706.03762, section 3.2.1; windows: Beltagy et al.,
        https://arxiv.org/abs/2004.05150, section 3.1; sinks: Xiao et al., https://arxiv.org/abs/2309.17453.
    """
    name = "window_attention"
    check_logits(name, scale, softcap, layout)
    check_windows(name, window_left, window_right)
    heads, batch, length = check_heads(name, q, k, v, layout)
    check_sinks(name, sinks, heads)
    check_ranges(name, key_ranges, batch, length)
    if only_shapes():
        return q.new_empty(q.shape)
    keys = k.shape[2 if HEADS_FIRST[layout] else 1]
    seen = seen_keys(length, keys, key_ranges, window_left, window_right, q.device)
    return attend_to_seen(q, k, v, seen, sinks, scale, softcap, layout)


def attend_to_seen(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, sinks: Tensor | None, scale: float, softcap: float, layout: str
) -> Tensor:
    """The op's result, where `seen` [B or 1, S, T] says which keys a query sees."""
    queries, keys, values = by_group(q, k, v, layout)
    keys, values = (_only_seen(t, seen) for t in (keys, values))
    sink = None if sinks is None else sinks.to(queries.dtype)
    result = attend(queries, keys, values, seen[:, None, None], sink, scale or q.shape[3] ** -0.5, softcap)
    return from_groups(result, q.dtype, layout)


def by_group(q: Tensor, k: Tensor, v: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    """[B, G, H / G, S, D] and twice [B, G, 1, T, D], in the dtype of the sums."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k, v = ((t if HEADS_FIRST[layout] else t.transpose(1, 2)).to(wide) for t in (q, k, v))
    groups = k.shape[1]
    return q.unflatten(1, (groups, q.shape[1] // groups)), k.unsqueeze(2), v.unsqueeze(2)


def from_groups(result: Tensor, dtype: torch.dtype, layout: str) -> Tensor:
    """From [B, G, H / G, S, D] to the op's result."""
    result = result.flatten(1, 2).to(dtype)
    return result if HEADS_FIRST[layout] else result.transpose(1, 2)


def seen_keys(
    queries: int,
    keys: int,
    ranges: Tensor | None,
    left: int,
    right: int,
    device: torch.device,
    rows: slice = slice(None),
) -> Tensor:
    """[B or 1, S, T], which keys a query sees; of some of the queries, where `rows` says so."""
    position = torch.arange(keys - queries, keys, device=device)[rows, None]  # [S, 1]
    chosen = ranges[:, rows] if ranges is not None and ranges.shape[1] == queries else ranges
    return _seen(position, keys, chosen, left, right)


def seen_of_sequences(queries: int, room: int, lengths: Tensor, ranges: Tensor | None, left: int, right: int) -> Tensor:
    """[B, S, room], the same where each sequence has a number of keys of its own, at whose end its queries are."""
    end = lengths.long()[:, None, None]  # [B, 1, 1]
    position = end - queries + torch.arange(queries, device=lengths.device)[:, None]  # [B, S, 1]
    return _seen(position, room, ranges, left, right) & (torch.arange(room, device=lengths.device) < end)


def _seen(position: Tensor, keys: int, ranges: Tensor | None, left: int, right: int) -> Tensor:
    """[B or 1, S, T]; position: [S, 1] or [B, S, 1]."""
    key = torch.arange(keys, device=position.device)  # [T]
    seen = torch.ones_like(position, dtype=torch.bool).expand(*position.shape[:-1], keys)
    seen = seen if seen.dim() == 3 else seen[None]
    if left >= 0:
        seen = seen & (key >= position - left)
    if right >= 0:
        seen = seen & (key <= position + right)
    if ranges is not None:
        begin, end = ranges.unsqueeze(-2).unbind(-1)  # [B or 1, S or 1, 1]
        seen = seen & (key >= begin) & (key < end)
    return seen


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, sinks: Tensor | None, scale: float, cap: float) -> Tensor:
    """Of tensors as from `by_group`; seen: of a shape that expands to [B, G, H / G, S, T]; sinks: [H]."""
    logits = q @ k.transpose(-1, -2) * scale  # [B, G, H / G, S, T]
    logits = cap * torch.tanh(logits / cap) if cap else logits
    logits = logits.masked_fill(~seen, -math.inf)
    shape = (*q.shape[:-1], 1)
    none = logits.new_full(shape, -math.inf)
    last = none if sinks is None else sinks.view(*shape[1:3], 1, 1).expand(shape)
    logits = torch.cat((logits, last), -1)
    top = logits.detach().amax(-1, keepdim=True)
    # A query without keys: its logits are all -inf, and its weights are to be zeros.
    weights = torch.exp(logits - top.masked_fill(top == -math.inf, 0.0))
    total = weights.sum(-1, keepdim=True)
    return weights[..., :-1] @ v / total.masked_fill(total == 0, 1.0)


def _only_seen(x: Tensor, seen: Tensor) -> Tensor:
    """Keys or values [B, G, 1, T, D], with zeros before the first and after the last that any query sees."""
    any_sees = seen.any(1)  # [B or 1, T]
    between = any_sees.cumsum(1).bool() & any_sees.flip(1).cumsum(1).bool().flip(1)
    return x.masked_fill(~between[:, None, None, :, None], 0.0)


def check_logits(op: str, scale: float, softcap: float, layout: str) -> None:
    """That the layout is one, and the logits are to be finite."""
    require(layout in HEADS_FIRST, f'{op}: layout is "{layout}", expected "bhsd" or "bshd"')
    require(math.isfinite(scale), f"{op}: scale is {scale}, expected a finite number (0 for 1 / sqrt(D))")
    fits = math.isfinite(softcap) and softcap >= 0
    require(fits, f"{op}: softcap is {softcap}, expected a finite number above 0, or 0 for none")


def check_windows(op: str, left: int, right: int) -> None:
    """That these are numbers of keys."""
    for side, window in (("window_left", left), ("window_right", right)):
        require(window >= -1, f"{op}: {side} is {window}, expected a number of keys, or -1 for all")


def check_sinks(op: str, sinks: Tensor | None, heads: int) -> None:
    """That sinks, where there are some, are of these."""
    if sinks is not None:
        fits = sinks.dim() == 1 and sinks.shape[0] == heads
        require(fits, f"{op}: sinks has shape {tuple(sinks.shape)}, expected ({heads},), one a head of q")


def check_head_dim(op: str, head_dim: int) -> None:
    """That kernels hold so many channels."""
    require(0 < head_dim <= MAX_HEAD_DIM, f"{op}: head_dim is {head_dim}, expected 1 to {MAX_HEAD_DIM}")


def check_heads(op: str, q: Tensor, k: Tensor, v: Tensor, layout: str) -> tuple[int, int, int]:
    """That the shapes fit; returns the heads of q, the batch, and the number of queries."""
    shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
    require(all(t.dim() == 4 for t in (q, k, v)), f"{op}: q, k and v must have 4 dimensions, got {shapes}")
    same = all(a == b for a, b in zip(k.shape, v.shape, strict=True))
    require(same, f"{op}: k and v differ in shape: {tuple(k.shape)} and {tuple(v.shape)}")
    same = q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    require(same, f"{op}: q and k differ in batch or head_dim: {tuple(q.shape)} and {tuple(k.shape)}")
    check_head_dim(op, q.shape[3])
    axis = 1 if HEADS_FIRST[layout] else 2
    heads, groups = q.shape[axis], k.shape[axis]
    fits = groups > 0 and heads % groups == 0
    require(fits, f"{op}: q has {heads} heads, expected a multiple of the {groups} of k")
    return heads, q.shape[0], q.shape[3 - axis]


def check_ranges(op: str, ranges: Tensor | None, batch: int, queries: int) -> None:
    """That key_ranges, where there are some, are of these."""
    if ranges is None:
        return
    fits = ranges.dim() == 3 and ranges.shape[2] == 2
    fits = fits and (ranges.shape[0] == batch or ranges.shape[0] == 1)
    fits = fits and (ranges.shape[1] == queries or ranges.shape[1] == 1)
    require(fits, f"{op}: key_ranges has shape {tuple(ranges.shape)}, expected ({batch} or 1, {queries} or 1, 2)")
