"""Small models that compute with dynamic heights and widths: each takes x [1, 2, H, W] and returns a tuple."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ByFloats(nn.Module):
    """Extents computed through floats."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h, w = x.shape[2:]
        return (
            x[:, :, : int(h * 0.5)] + 1,
            F.interpolate(x, size=(int(h * 1.5), int(w * 0.7))),
            x[:, :, : int(math.sqrt(h))] + 1,
            F.pad(x, (0, math.ceil(h / w), 0, round(h / 3))),
            x[:, :, -int(h**0.5) :] + 1,
        )


class ByIntegers(nn.Module):
    """Extents by integers, with every operator that torch.export leaves in graphs."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h, w = x.shape[2:]
        return (
            x[:, :, -(h // 2) :].sum(2) + x[:, :, : max(h // 4, 3)].sum(2),
            F.pad(x, (-w % 8, abs(h - w), 0, (4 - h % 4) % 4)),
            x.new_ones(torch.sym_sum([h, w, 3])) + x.mean(),
            x[:, :, : torch.sym_ite(h > w, 3, 5)] + 1,
            x.new_ones(min(h, w), h**2 // 9) + x.mean(),
            x[:, :, h // 2] + x[:, :, -1] + x[:, :, 1:-2].sum(2) + x[:, :, :30, :3].sum(2)[..., :1],
            x.new_ones(-(h // -4)) + x.mean(),
        )


class AsValues(nn.Module):
    """Extents among a tensor's values."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h, w = x.shape[2:]
        return (
            x / h + x * (w * 0.5) - (h - x) / max(w - 1, 1),
            x / math.sqrt(h) + x * (1.0 / w) + x * w**-0.5 + x.sum() / x.numel(),
            torch.tensor([w, h], device=x.device) + x.argmax(),
            torch.tensor([w - 1.0, 1.0 / h, 2.0], device=x.device) * x.mean(),
            torch.full((h, w), h, dtype=torch.float32, device=x.device) + x[0, 0],
            torch.full((w,), h, device=x.device) + x.argmax(),
            torch.where(torch.tensor(h > w, device=x.device), x, -x).clamp(max=h * 0.1),
        )


class Made(nn.Module):
    """Tensors whose sizes are extents."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h, w = x.shape[2:]
        rows, columns = torch.meshgrid(
            torch.linspace(0.5, h - 0.5, h, device=x.device), torch.arange(w, device=x.device) * 1.0, indexing="ij"
        )
        return (
            torch.arange(h, dtype=torch.float32, device=x.device) + x.sum(),
            torch.arange(0.5, w, 0.7, device=x.device) + x.sum(),
            torch.arange(w, h + w, 3, device=x.device) + x.argmax(),
            torch.arange(1 - w, 1, device=x.device) * 0.5 + x.sum(),
            torch.stack((rows / h, 2.0 * columns / (w - 1) - 1), -1) + x.sum(),
            torch.eye(h, device=x.device) @ x.tril()
            + torch.full((h, h), -1e4, device=x.device).triu(1).softmax(-1) @ x,
            torch.ones(1, h, w, device=x.device).cumsum(1)[:, -1:] + x.sum(),
        )


class Moved(nn.Module):
    """Tensors split and concatenated by extents."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h, w = x.shape[2:]
        small = F.max_pool2d(x, 2)
        padded = F.pad(x, (0, -w % 4, 0, -h % 4)) * 2
        return (
            x[None].repeat(2, 1, 1, 1, 3) + x.mean((2, 3), keepdim=True).expand(-1, -1, h, 3 * w),
            torch.roll(x, (h // 2, -2), (2, 3)),
            F.interpolate(small, size=x.shape[2:]) + F.interpolate(small, size=(h, w), mode="bicubic"),
            F.interpolate(small, size=(h, w), mode="bilinear", align_corners=True),
            F.interpolate(x[0], size=2 * w, mode="linear"),
            padded[:, :, :h, :w],
            padded.unflatten(2, (-1, 4)).mean(3),
            x.unfold(2, 3, 2).sum(-1),
        )


ALL = (ByFloats, ByIntegers, AsValues, Made, Moved)
