"""Pooling windows of an axis: their elements, for fixed and dynamic extents."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.graph.torch_patches.pooled_extents import windows as windows_of
from bridge.tensorrt.decompositions.bounds import known, known_equal


@dataclass(frozen=True)
class Windows:
    """The windows of one axis. positions: of their elements, [out, k]. inside: which of these exist, [out, k]."""

    positions: Tensor
    inside: Tensor

    def gather(self, x: Tensor, axis: int) -> Tensor:
        """The windows' elements: [..., n, ...] to [..., out, k, ...]. axis: negative."""
        rows = x.index_select(axis, self.positions.flatten())
        index = x.dim() + axis
        return rows.reshape(*x.shape[:index], *self.positions.shape, *x.shape[index + 1 :])

    def mask(self, axis: int) -> Tensor:
        """Which elements of `gather`'s result exist."""
        return with_trailing_ones(self.inside, -axis - 1)


def adaptive_windows(extent: Any, out: Any, device: torch.device) -> Windows:
    """Window i from floor(i * extent / out) up to ceil((i + 1) * extent / out), as PyTorch has them."""
    first = torch.arange(out, device=device)
    start = first * extent // out
    end = ((first + 1) * extent + (out - 1)) // out
    return _between(start, end, _widest(extent, out))


@dataclass(frozen=True)
class Axis:
    """One axis of a pooling with a kernel. extent: of the map."""

    extent: Any
    kernel: int
    step: int
    pad: int
    dilation: int
    ceil_mode: bool

    @property
    def out(self) -> Any:
        """The number of windows."""
        span = (self.kernel - 1) * self.dilation + 1
        return windows_of(self.extent, span, self.step, self.pad, self.pad, self.ceil_mode)

    @property
    def fits(self) -> bool:
        """Whether ceil_mode makes no difference: the windows fit exactly."""
        return known_equal((self.extent + 2 * self.pad - self.kernel) % self.step, 0)

    @property
    def missing(self) -> int:
        """The elements that the last window lacks at the end; an upper bound for a dynamic extent."""
        if not self.ceil_mode or self.fits:
            return 0
        covered = self.extent + 2 * self.pad
        return max(0, (self.out - 1) * self.step + self.kernel - covered) if known(covered) else self.step - 1

    def windows(self, device: torch.device) -> Windows:
        """The windows, without the padding."""
        start = torch.arange(self.out, device=device) * self.step - self.pad
        positions = start[:, None] + self.dilation * torch.arange(self.kernel, device=device)
        inside = (positions >= 0) & (positions < self.extent)
        return Windows(torch.where(inside, positions, 0), inside)

    def counted(self, padding: bool, device: torch.device) -> Tensor:
        """The divisor of each window's mean, [out], without the elements that ceil_mode adds."""
        positions = torch.arange(self.out, device=device)[:, None] * self.step - self.pad
        positions = positions + torch.arange(self.kernel, device=device)
        inside = positions < self.extent + self.pad if padding else (positions >= 0) & (positions < self.extent)
        return inside.sum(1)


def _between(start: Tensor, end: Tensor, width: Any) -> Windows:
    positions = start[:, None] + torch.arange(width, device=start.device)
    inside = positions < end[:, None]
    return Windows(torch.where(inside, positions, start[:, None]), inside)


def _widest(extent: Any, out: Any) -> Any:
    """The width of the widest adaptive window; an upper bound for dynamic extents."""
    if known_equal(extent % out, 0):
        return extent // out
    if isinstance(extent, int) and isinstance(out, int):
        return max(-(-(i + 1) * extent // out) - i * extent // out for i in range(out))
    return (extent + out - 1) // out + 1


def with_trailing_ones(x: Tensor, count: int) -> Tensor:
    """Appends `count` extents of 1, to broadcast over that many axes."""
    return x.reshape(*x.shape, *[1] * count)
