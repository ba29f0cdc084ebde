"""Workloads and peers of swin_attention."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Missing, Peer, Untimed, imported
from bridge.bench.workload import Workload


@dataclass(frozen=True)
class SwinAttention(Workload):
    """swin_attention of square maps, `extent` on a side, or of their windows and a mask that is read.

    image_count: maps. window, shift: on a side. tensors: whether windows are given, and the shift's mask as a tensor.
    """

    image_count: int = 64
    extent: int = 56
    heads: int = 3
    head_dim: int = 32
    window: int = 7
    shift: int = 0
    cosine: bool = False
    grid: bool = False
    head_major: bool = False
    tensors: bool = False

    @property
    def tokens(self) -> int:
        """Of a window."""
        return self.window**2

    @property
    def windows(self) -> int:
        """Of a map."""
        return (self.extent // self.window) ** 2

    @property
    def channels(self) -> int:
        """Of all heads."""
        return self.heads * self.head_dim

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """q with k and v in it, bias, mask, logit_scale."""
        maps = (self.image_count, self.extent, self.extent)
        lead = (self.image_count * self.windows, self.tokens) if self.tensors else maps
        bias = self._random(device, self.heads, self.tokens, self.tokens)
        mask = self.shift_mask(device) if self.tensors and self.shift else None
        scale = self._random(device, self.heads).abs() * 10 if self.cosine else None
        settings: dict[str, Any] = {"heads": self.heads, "head_major": self.head_major}
        if not self.tensors:
            settings |= {"window": (self.window,) * 2, "shift": (self.shift,) * 2, "grid": self.grid}
        return [self._random(device, *lead, 3 * self.channels), None, None, bias, mask, scale], settings

    def shift_mask(self, device: torch.device) -> Tensor:
        """[windows, T, T] of the dtype, as the models make it."""
        place = torch.arange(self.extent, device=device) >= self.extent - self.shift
        side = cut((place[:, None] + 2 * place)[None, :, :, None], self.window, self.grid)[..., 0]  # [windows, T]
        apart = side[:, :, None] != side[:, None, :]
        return torch.where(apart, -100.0, 0.0).to(getattr(torch, self.dtype))

    def batched(self) -> tuple[int, ...]:
        """The maps alone; windows of one image share a mask."""
        return () if self.tensors and self.shift else (0,)

    def bytes(self) -> int:
        """q, k and v and the result, and the tables."""
        table = self.tokens**2 * (self.heads + (self.windows if self.tensors and self.shift else 0))
        return (4 * self.image_count * self.extent**2 * self.channels + table) * self.element

    def flops(self) -> int:
        """Of the two products."""
        return 4 * self.image_count * self.windows * self.heads * self.tokens**2 * self.head_dim


# Layers of published models, as their authors' configurations have them: Swin-T (images of 224, windows of 7), Swin-L
# (384, 12), Swin-v2-T (256, 8 and 16), Swin-v2-L (384, 24), MaxViT-T (224, windows and grids of 7).
_SWIN_L: dict[str, Any] = {"image_count": 16, "extent": 96, "heads": 6}
_V2: dict[str, Any] = {"extent": 64, "cosine": True}
_MAXVIT: dict[str, Any] = {"heads": 2, "head_major": True}
_MODELS: dict[str, dict[str, Any]] = {
    "Swin-T, stage 1": {"shift": 3},
    "Swin-T, stage 1, windows and a mask": {"shift": 3, "tensors": True},
    "Swin-T, stage 1, not shifted": {},
    "Swin-T, stage 2": {"extent": 28, "heads": 6, "shift": 3},
    "Swin-T, stage 3": {"extent": 14, "heads": 12, "shift": 3},
    "Swin-T, stage 4": {"extent": 7, "heads": 24},
    "Swin-T, stage 1, one image": {"image_count": 1, "shift": 3},
    "Swin-T, stage 3, one image": {"image_count": 1, "extent": 14, "heads": 12, "shift": 3},
    "Swin-T, stage 1, cosine": {"shift": 3, "cosine": True},
    "Swin-v2-T, window 8": _V2 | {"window": 8, "shift": 4},
    "Swin-v2-T, window 16": _V2 | {"window": 16, "shift": 8},
    "Swin-L, window 12": _SWIN_L | {"window": 12, "shift": 6},
    "Swin-v2-L, window 24": _SWIN_L | {"window": 24, "shift": 12, "cosine": True},
    "MaxViT-T, windows": _MAXVIT,
    "MaxViT-T, grid": _MAXVIT | {"grid": True},
}


def workloads() -> Iterable[Workload]:
    """Layers of published models; growing numbers of images, and growing windows."""
    for name, changes in _MODELS.items():
        compiled = name.startswith(("Swin-T, stage 1, w", "Swin-v2", "Swin-L"))
        yield SwinAttention("swin_attention", name, "float16", variation=not compiled, **changes)
    for name in ("Swin-T, stage 1", "Swin-v2-T, window 8"):
        yield SwinAttention("swin_attention", name, "bfloat16", variation=True, **_MODELS[name])
    yield SwinAttention("swin_attention", "Swin-T, stage 1", "float32", variation=True, **_MODELS["Swin-T, stage 1"])
    for power in range(10):
        images = 2**power
        yield SwinAttention("swin_attention", f"images {images}", "float16", "growth", image_count=images, shift=3)
    for power in range(1, 6):
        window, shift = 2**power, 2 ** (power - 1)
        yield SwinAttention(
            "swin_attention", f"window {window}", "float16", "growth", extent=64, window=window, shift=shift
        )


def cut(x: Tensor, window: int, grid: bool) -> Tensor:
    """The windows of maps [N, H, W, C], [windows, T, C]."""
    n, h, w, c = x.shape
    if grid:
        pieces = x.view(n, window, h // window, window, w // window, c).permute(0, 2, 4, 1, 3, 5)
    else:
        pieces = x.view(n, h // window, window, w // window, window, c).permute(0, 1, 3, 2, 4, 5)
    return pieces.reshape(-1, window**2, c)


def _join(x: Tensor, workload: SwinAttention) -> Tensor:
    """The map of windows [windows, T, C]."""
    count, window = workload.extent // workload.window, workload.window
    order = (0, 3, 1, 4, 2, 5) if workload.grid else (0, 1, 3, 2, 4, 5)
    pieces = x.view(-1, count, count, window, window, x.shape[-1]).permute(order)
    return pieces.reshape(-1, workload.extent, workload.extent, x.shape[-1])


def _windows(workload: SwinAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of windows, [windows, heads, T, D]; lengths are 1 where logits are cosines."""
    if not workload.tensors:
        rolled = x.roll((-workload.shift, -workload.shift), (1, 2)) if workload.shift else x
        x = cut(rolled, workload.window, workload.grid)
    by_head = workload.head_major
    parts = x.unflatten(-1, (workload.heads, 3, -1) if by_head else (3, workload.heads, -1)).unbind(3 if by_head else 2)
    q, k, v = (t.transpose(1, 2) for t in parts)
    return (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v) if workload.cosine else (q, k, v)


def _result(workload: SwinAttention, x: Tensor) -> Tensor:
    """The op's result, of windows [windows, heads, T, D]."""
    out = x.transpose(1, 2).flatten(2)
    if workload.tensors:
        return out
    joined = _join(out, workload)
    return joined.roll((workload.shift, workload.shift), (1, 2)) if workload.shift else joined


def _sdpa(workload: SwinAttention, settings: dict[str, Any]) -> Call:
    """PyTorch's attention with bias and mask as one tensor, whose sum is not timed; copies cut and join the windows."""

    def table(args: list[Any]) -> Tensor:
        bias = args[3][None]  # [1, heads, T, T]
        if not workload.shift:
            return bias
        mask = workload.shift_mask(bias.device)[:, None]
        return (bias + mask).repeat(workload.image_count, 1, 1, 1)

    mask = Untimed(table)

    def call(args: list[Any]) -> Any:
        q, k, v = _windows(workload, args[0])
        scale = 1.0 if workload.cosine else None
        q = q * args[5][:, None, None] if workload.cosine else q
        return _result(workload, F.scaled_dot_product_attention(q, k, v, attn_mask=mask(args), scale=scale))

    return call


def _flex_attention(workload: SwinAttention, settings: dict[str, Any]) -> Call:
    """FlexAttention, compiled for the shape, with bias and mask as its score_mod."""
    flex = imported("torch.nn.attention.flex_attention", "flex_attention")
    if workload.cosine:
        raise Missing("it has no cosines")
    torch.compiler.reset()
    attend = torch.compile(flex, dynamic=False)
    shift_mask = Untimed(lambda args: workload.shift_mask(args[0].device))

    def call(args: list[Any]) -> Any:
        bias, masks = args[3], shift_mask(args) if workload.shift else None

        def score(logit: Tensor, window: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            logit = logit + bias[head, query, key]
            return logit if masks is None else logit + masks[window % workload.windows, query, key]

        return _result(workload, attend(*_windows(workload, args[0]), score_mod=score))

    return call


PEERS = (
    Peer("sdpa_mask", "swin_attention", _sdpa),
    Peer("flex_attention", "swin_attention", _flex_attention, compiles=True),
)
