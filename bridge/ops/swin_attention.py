"""Attention within the windows of a map: Swin, Swin-v2, MaxViT."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.core.op import Pair, only_shapes, op, require
from bridge.core.tensors import Floating, LikeFirst, LikeFirstOrFloat32

MAX_HEAD_DIM = 256
"""Largest head_dim: what the kernels' shared memory has room for."""

_LEAST_NORM = 1e-12


@op
def swin_attention(
    q: Floating,
    k: LikeFirst | None = None,
    v: LikeFirst | None = None,
    bias: LikeFirstOrFloat32 | None = None,
    mask: LikeFirstOrFloat32 | None = None,
    logit_scale: LikeFirstOrFloat32 | None = None,
    heads: int = 1,
    window: Pair = 0,
    shift: Pair = 0,
    grid: bool = False,
    head_major: bool = False,
    scale: float = 0.0,
    shift_mask: float = -100.0,
) -> Tensor:
    """Attention of each token to the tokens of its window, of windows or of a map that is cut into them.

    With T tokens of a window, C = heads D channels, and M masks: softmax(scale q kᵀ + bias + mask) v of each window and
    head, or with `logit_scale` softmax(logit_scale q kᵀ / (length of q times length of k) + bias + mask) v.

    A map [N, H, W, C] with `window` is cut into windows and put together again within the kernel. Windows count image,
    row, column. Along an axis with a shift they are those of the map rolled by -shift: the last ones span the map's
    end, and `shift_mask` is added where query and key are on different sides of it. With `grid` a window has every
    (H / window)th row and (W / window)th column.

    Args:
        q: [windows, T, C], or a map [N, H, W, C]; float32, float16 or bfloat16 (float64 on CPU). Without k and v it has
            3 C channels: q, k and v of all heads, or with `head_major` of one head after another.
        k, v: as q; or both None.
        bias: [heads, T, T], or None; the dtype of q, or float32, as are mask and logit_scale.
        mask: [M, T, T], or None: that of window i is the one of index i modulo M. M divides the number of windows.
        logit_scale: [heads], factors of the cosines; None for dot products.
        heads: their number.
        window: tokens of a window of a map, a number or (height, width), which divide H and W; 0 where q has windows.
        shift: a number or (height, width), less than the window.
        grid: whether a window's tokens are spread over the map.
        head_major: whether a q of 3 C channels is [heads, 3, D], and not [3, heads, D].
        scale: factor of the dot products; 0 for 1 / sqrt(D). Without effect where there is a logit_scale.
        shift_mask: what is added for query and key on different sides of the end of a map with a shift.
    Returns:
        The shape of q with C channels, and its dtype, dense; logits, lengths, softmax and sums are float32. The length
        of a query or key counts as 1e-12 at least.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit; the message names the value.
    Source: Liu et al., https://arxiv.org/abs/2103.14030, section 3.2; cosines: https://arxiv.org/abs/2111.09883,
        section 3.2; grid: Tu et al., https://arxiv.org/abs/2204.01697, section 3.2.
    """
    window, shift = _pair(window), _pair(shift)
    _check_attributes(q, heads, window, shift, grid, scale, shift_mask)
    _check_tensors(q, k, v, heads, head_major)
    is_map = q.dim() == 4
    tokens = window[0] * window[1] if is_map else q.shape[1]
    windows = q.shape[0] * (q.shape[1] // window[0]) * (q.shape[2] // window[1]) if is_map else q.shape[0]
    _check_tables(bias, mask, logit_scale, heads, tokens, windows)
    channels = q.shape[-1] // 3 if k is None else q.shape[-1]
    if only_shapes():
        return q.new_empty(*q.shape[:-1], channels)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    shifted = is_map and any(shift)
    apart = _shift_mask(q, window, shift, shift_mask) if shifted else None
    tensors = [_cut(t.to(wide), window, shift, grid) if is_map else t.to(wide) for t in (q, k, v) if t is not None]
    queries, keys, values = _heads(tensors, heads, head_major)
    if logit_scale is None:
        logits = queries @ keys.transpose(-1, -2) * (scale or queries.shape[-1] ** -0.5)
    else:
        logits = _unit(queries) @ _unit(keys).transpose(-1, -2) * logit_scale.to(wide)[:, None, None]
    logits = logits if bias is None else logits + bias.to(wide)
    for added in (apart, mask):  # [M, T, T]
        logits = logits if added is None else _add(logits, added.to(wide))
    out = (torch.softmax(logits, -1) @ values).transpose(1, 2).flatten(2)  # [windows, T, C]
    return (_join(out, q.shape, window, shift, grid) if is_map else out).to(q.dtype)


def _shift_mask(q: Tensor, window: tuple[int, int], shift: tuple[int, int], value: float) -> Tensor:
    """[M, T, T], float64: one beyond float32 is an infinity there."""
    added = torch.full((), value, dtype=torch.float64, device=q.device)
    return torch.where(tokens_apart(q.shape[1:3], window, shift, q.device), added, 0.0)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _cut(x: Tensor, window: tuple[int, int], shift: tuple[int, int], grid: bool) -> Tensor:
    """The windows of a map, [N, H, W, C] to [windows, T, C]."""
    height, width = window
    rolled = x.roll((-shift[0], -shift[1]), (1, 2))
    if grid:
        pieces = rolled.unflatten(2, (width, x.shape[2] // width)).unflatten(1, (height, x.shape[1] // height))
        pieces = pieces.permute(0, 2, 4, 1, 3, 5)
    else:
        pieces = rolled.unflatten(2, (x.shape[2] // width, width)).unflatten(1, (x.shape[1] // height, height))
        pieces = pieces.permute(0, 1, 3, 2, 4, 5)
    return pieces.flatten(3, 4).flatten(0, 2)


def _join(x: Tensor, shape: torch.Size, window: tuple[int, int], shift: tuple[int, int], grid: bool) -> Tensor:
    """The map [N, H, W, C] of windows [windows, T, C]. shape: of a map of that size."""
    rows, columns = shape[1] // window[0], shape[2] // window[1]
    pieces = x.view(shape[0], rows, columns, *window, x.shape[-1])
    order = (0, 3, 1, 4, 2, 5) if grid else (0, 1, 3, 2, 4, 5)
    return pieces.permute(order).flatten(3, 4).flatten(1, 2).roll(shift, (1, 2))


def tokens_apart(size: Sequence[int], window: tuple[int, int], shift: tuple[int, int], device: Any) -> Tensor:
    """Whether two tokens of a window are on different sides of the map's end, [windows of an image, T, T].

    size: H and W of the map, which has been rolled by -shift.
    """
    sides = []
    for extent, by in zip(size, shift, strict=True):
        place = torch.arange(extent, device=device)
        sides.append(place >= extent - by if by else torch.zeros_like(place, dtype=torch.bool))
    side = (sides[0][:, None] + 2 * sides[1])[None, :, :, None]  # [1, H, W, 1]
    side = _cut(side, window, (0, 0), grid=False)[..., 0]
    return side[:, :, None] != side[:, None, :]


def _heads(tensors: list[Tensor], heads: int, head_major: bool) -> list[Tensor]:
    """q, k and v as [windows, heads, T, D]."""
    if len(tensors) == 3:
        return [t.unflatten(-1, (heads, t.shape[-1] // heads)).transpose(1, 2) for t in tensors]
    head_dim = tensors[0].shape[-1] // (3 * heads)
    if head_major:
        return [t.transpose(1, 2) for t in tensors[0].unflatten(-1, (heads, 3, head_dim)).unbind(-2)]
    return [t.transpose(1, 2) for t in tensors[0].unflatten(-1, (3, heads, head_dim)).unbind(-3)]


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=_LEAST_NORM)


def _add(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits [windows, heads, T, T] with a mask [M, T, T] for every M windows."""
    if mask.shape[0] == 0:
        return logits  # there are no windows
    return (logits.unflatten(0, (logits.shape[0] // mask.shape[0], mask.shape[0])) + mask[:, None]).flatten(0, 1)


def _check_attributes(
    q: Tensor, heads: int, window: tuple[int, int], shift: tuple[int, int], grid: bool, scale: float, shift_mask: float
) -> None:
    shape, fits = tuple(q.shape), q.dim() in (3, 4)
    require(fits, f"swin_attention: q has shape {shape}, expected [windows, tokens, channels] or [N, H, W, channels]")
    require(heads >= 1, f"swin_attention: heads is {heads}, expected 1 or more")
    require(math.isfinite(scale), f"swin_attention: scale is {scale}, expected a finite number (0 for 1 / sqrt(D))")
    require(not math.isnan(shift_mask), f"swin_attention: shift_mask is {shift_mask}, expected a number")
    w, s = (" x ".join(map(str, pair)) for pair in (window, shift))
    if q.dim() == 3:
        none = window == (0, 0) and shift == (0, 0) and not grid
        of_map = f"window {w}, shift {s} and grid are of a map [N, H, W, channels]"
        require(none, f"swin_attention: {of_map}, but q has shape {shape}")
        return
    for axis in (0, 1):
        require(window[axis] >= 1, f"swin_attention: window is {w}, expected 1 x 1 or more for a map")
        within = 0 <= shift[axis] < window[axis]
        require(within, f"swin_attention: shift is {s}, expected 0 or more, and less than window, {w}")
        multiple = q.shape[1 + axis] % window[axis] == 0
        require(multiple, f"swin_attention: q has shape {shape}, expected multiples of window, {w}, along H and W")
    require(not grid or shift == (0, 0), f"swin_attention: shift is {s}, expected 0 x 0 with grid")


def _check_tensors(q: Tensor, k: Tensor | None, v: Tensor | None, heads: int, head_major: bool) -> None:
    packed = k is None
    together = packed == (v is None)
    require(together, "swin_attention: k and v must be given together, or neither where q holds all three")
    require(packed or not head_major, "swin_attention: head_major is of a q that holds k and v too, but k is given")
    for name, tensor in (("k", k), ("v", v)):
        if tensor is not None:
            _check_shape(name, tensor, tuple(q.shape))
    channels, unit = q.shape[-1], heads * (3 if packed else 1)
    fits = channels > 0 and channels % unit == 0 and channels // unit <= MAX_HEAD_DIM
    require(
        fits,
        f"swin_attention: q has {channels} channels, expected {'3 ' if packed else ''}heads ({heads}) times a head_dim "
        f"of 1 to {MAX_HEAD_DIM}",
    )


def _check_tables(
    bias: Tensor | None, mask: Tensor | None, logit_scale: Tensor | None, heads: int, tokens: int, windows: int
) -> None:
    if bias is not None:
        _check_shape("bias", bias, (heads, tokens, tokens))
    if logit_scale is not None:
        _check_shape("logit_scale", logit_scale, (heads,))
    if mask is not None:
        _check_shape("mask", mask, (mask.shape[0] if mask.dim() else 1, tokens, tokens))
        shape, count = tuple(mask.shape), mask.shape[0]
        fits = count > 0 and windows % count == 0
        require(fits, f"swin_attention: mask has shape {shape}, expected as many as divide the {windows} windows")


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    same = tensor.dim() == len(expected) and all(a == b for a, b in zip(tensor.shape, expected, strict=True))
    require(same, f"swin_attention: {name} has shape {tuple(tensor.shape)}, expected {expected}")
