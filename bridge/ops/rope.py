"""Rotary position embedding of queries and keys."""

import torch
from torch import Tensor

from bridge.core.op import op, require
from bridge.core.tensors import Floating, Index, LikeFirst, LikeFirstOrFloat32

_HEADS_FIRST = {"bhsd": True, "bshd": False}


@op
def rope(
    q: Floating,
    k: LikeFirst,
    cos: LikeFirstOrFloat32,
    sin: LikeFirstOrFloat32,
    position_ids: Index | None = None,
    interleaved: bool = False,
    rotary_dim: int = 0,
    layout: str = "bhsd",
) -> tuple[Tensor, Tensor]:
    """Rotates pairs of elements of every query and key head by the angle of their position.

    With R the rotary dimension, the pair (x, y) is elements (i, i + R/2), or (2i, 2i + 1) when interleaved, and becomes
    (x cos_x - y sin_x, y cos_y + x sin_y). Elements past R are copied. The result is that of Hugging Face's
    ``apply_rotary_pos_emb`` (tables of width R) and of ONNX RotaryEmbedding (tables of width R/2).

    Args:
        q: [B, H, S, D] for layout "bhsd", [B, S, H, D] for "bshd"; float32, float16 or bfloat16 (float64 on CPU).
        k: like q, with its own number of heads (grouped-query attention); the same dtype.
        cos, sin: both the dtype of q, or both float32. Width W is R/2, one value a pair, or R, one value an element.
            [S, W] or [B or 1, S, W], a row for each position; with position_ids [P, W], a row for each id.
        position_ids: [B or 1, S] int32 or int64, the row of cos and sin for each token.
        interleaved: pairs of neighbours (GPT-J, original Llama) instead of halves (Hugging Face Llama, GPT-NeoX).
        rotary_dim: R; 0 means D. Even, at most D.
        layout: order of q's dimensions, "bhsd" or "bshd".
    Returns:
        q and k rotated: dense, same shapes and dtype, computed in float32 and rounded once.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit; the message names the value.
        IndexError: on CPU, a position id outside [0, P). On CUDA and in engines the token's rotated elements are NaN.
    Source: Su et al., https://arxiv.org/abs/2104.09864; ONNX operator RotaryEmbedding, opset 23.
    """
    require(layout in _HEADS_FIRST, f'rope: layout is "{layout}", expected "bhsd" or "bshd"')
    seq_axis = 2 if _HEADS_FIRST[layout] else 1
    _check(q, k, cos, sin, position_ids, rotary_dim, seq_axis)
    rotary = rotary_dim or q.shape[3]
    head_axis = 3 - seq_axis
    cos, sin = (_rows(table, position_ids).unsqueeze(head_axis) for table in (cos, sin))
    return tuple(_rotate(x, cos, sin, rotary, interleaved) for x in (q, k))  # type: ignore[return-value]


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, ids: Tensor | None, rotary_dim: int, seq_axis: int) -> None:
    shapes = f"{tuple(q.shape)} and {tuple(k.shape)}"
    require(q.dim() == 4 and k.dim() == 4, f"rope: q and k must have 4 dimensions, got shapes {shapes}")
    same = all(q.shape[axis] == k.shape[axis] for axis in (0, seq_axis, 3))
    require(same, f"rope: q and k differ in batch, sequence or head_dim: {shapes}")
    head_dim = q.shape[3]
    even = rotary_dim >= 0 and rotary_dim % 2 == 0
    require(even, f"rope: rotary_dim is {rotary_dim}, expected an even number (0 for the whole head_dim)")
    require(rotary_dim <= head_dim, f"rope: rotary_dim is {rotary_dim}, more than head_dim {head_dim}")
    whole = rotary_dim != 0 or head_dim % 2 == 0
    require(whole, f"rope: head_dim is {head_dim}, expected an even number; rotate a part of it with rotary_dim")
    _check_tables(cos, sin, ids, q.shape[0], q.shape[seq_axis], rotary_dim or head_dim)


def _check_tables(cos: Tensor, sin: Tensor, ids: Tensor | None, batch: int, seq: int, rotary: int) -> None:
    forms = "[rows, width]" if ids is not None else "[rows, width] or [batch, seq, width]"
    fits = cos.dim() == sin.dim() and (cos.dim() == 2 or (cos.dim() == 3 and ids is None))
    require(fits, f"rope: cos and sin must be {forms}, got shapes {tuple(cos.shape)} and {tuple(sin.shape)}")
    require(cos.dtype == sin.dtype, f"rope: cos and sin differ in dtype: {cos.dtype} and {sin.dtype}")
    same = all(a == b for a, b in zip(cos.shape, sin.shape, strict=True))
    require(same, f"rope: cos and sin differ in shape: {tuple(cos.shape)} and {tuple(sin.shape)}")
    width = cos.shape[-1]
    fits = width == rotary // 2 or width == rotary
    require(fits, f"rope: cos and sin have width {width}, expected {rotary // 2} or {rotary} for rotary_dim {rotary}")
    if ids is not None:
        fits = ids.dim() == 2 and (ids.shape[0] == 1 or ids.shape[0] == batch) and ids.shape[1] == seq
        require(fits, f"rope: position_ids has shape {tuple(ids.shape)}, expected [{batch}, {seq}] or [1, {seq}]")
        return
    rows = cos.shape[-2]
    require(
        rows == seq,
        f"rope: cos and sin have {rows} rows, expected {seq} (the sequence length) when there are no position_ids",
    )
    fits = cos.dim() == 2 or cos.shape[0] == 1 or cos.shape[0] == batch
    require(fits, f"rope: cos and sin have batch {cos.shape[0]}, expected {batch} or 1")


def _rows(table: Tensor, ids: Tensor | None) -> Tensor:
    """[B or 1, S, W], the table row of each token."""
    if ids is not None:
        return torch.nn.functional.embedding(ids, table)
    return table if table.dim() == 3 else table.unsqueeze(0)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, rotary: int, interleaved: bool) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = _pairs(wide[..., :rotary], rotary, interleaved)
    cos_first, cos_second = _pairs(cos.to(wide.dtype), rotary, interleaved)
    sin_first, sin_second = _pairs(sin.to(wide.dtype), rotary, interleaved)
    rotated = (first * cos_first - second * sin_first, second * cos_second + first * sin_second)
    joined = torch.stack(rotated, dim=-1).flatten(-2) if interleaved else torch.cat(rotated, dim=-1)
    return torch.cat((joined, wide[..., rotary:]), dim=-1).to(x.dtype)


def _pairs(x: Tensor, rotary: int, interleaved: bool) -> tuple[Tensor, Tensor]:
    """First and second elements of the pairs in [..., rotary]; [..., rotary / 2] stands for both."""
    if x.shape[-1] != rotary:
        return x, x
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    return x[..., : rotary // 2], x[..., rotary // 2 :]
