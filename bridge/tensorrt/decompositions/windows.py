"""Windows of an axis: which elements they hold, for fixed and for dynamic extents."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.graph.torch_patches.pooled_extents import windows as windows_of
from bridge.tensorrt.decompositions.bounds import known, known_equal


@dataclass(frozen=True)
class Windows:
    """The windows of one axis. places: of their elements, [out, k]; inside: which of these there are, [out, k]."""

    places: Tensor
    inside: Tensor

    def gather(self, x: Tensor, axis: int) -> Tensor:
        """The windows' elements, [..., out, k, ...] of x [..., n, ...]; axis counts from the end."""
        rows = x.index_select(axis, self.places.flatten())
        at = x.dim() + axis
        return rows.reshape(*x.shape[:at], *self.places.shape, *x.shape[at + 1 :])

    def mask(self, axis: int) -> Tensor:
        """Of `gather`'s result: which elements there are."""
        return before(self.inside, -axis - 1)


def adaptive_windows(extent: Any, out: Any, device: torch.device) -> Windows:
    """Window i from floor(i * extent / out) up to ceil((i + 1) * extent / out), as PyTorch has them."""
    first = torch.arange(out, device=device)
    start = first * extent // out
    end = ((first + 1) * extent + (out - 1)) // out
    return _of(start, end, _widest(extent, out))


@dataclass(frozen=True)
class Axis:
    """One axis of a pooling by a kernel; extent: of the map."""

    extent: Any
    kernel: int
    step: int
    pad: int
    gap: int  # dilation
    ceil_mode: bool

    @property
    def out(self) -> Any:
        """The number of windows."""
        span = (self.kernel - 1) * self.gap + 1
        return windows_of(self.extent, span, self.step, self.pad, self.pad, self.ceil_mode)

    @property
    def fits(self) -> bool:
        """Whether windows fit a whole number of times, so that rounding up is rounding down."""
        return known_equal((self.extent + 2 * self.pad - self.kernel) % self.step, 0)

    @property
    def missing(self) -> int:
        """What to add at the end for all windows, or for more of them where the extent is dynamic."""
        if not self.ceil_mode or self.fits:
            return 0
        covered = self.extent + 2 * self.pad
        return max(0, (self.out - 1) * self.step + self.kernel - covered) if known(covered) else self.step - 1

    def windows(self, device: torch.device) -> Windows:
        """With the padding left out."""
        start = torch.arange(self.out, device=device) * self.step - self.pad
        places = start[:, None] + self.gap * torch.arange(self.kernel, device=device)
        inside = (places >= 0) & (places < self.extent)
        return Windows(torch.where(inside, places, 0), inside)

    def counted(self, padding: bool, device: torch.device) -> Tensor:
        """How many elements of each window a mean is over, [out]; not those that rounding up adds."""
        places = torch.arange(self.out, device=device)[:, None] * self.step - self.pad
        places = places + torch.arange(self.kernel, device=device)
        inside = places < self.extent + self.pad if padding else (places >= 0) & (places < self.extent)
        return inside.sum(1)


def _of(start: Tensor, end: Tensor, most: Any) -> Windows:
    places = start[:, None] + torch.arange(most, device=start.device)
    inside = places < end[:, None]
    return Windows(torch.where(inside, places, start[:, None]), inside)


def _widest(extent: Any, out: Any) -> Any:
    """Elements of the widest adaptive window; a bound of it, where extents are dynamic."""
    if known_equal(extent % out, 0):
        return extent // out
    if isinstance(extent, int) and isinstance(out, int):
        return max(-(-(i + 1) * extent // out) - i * extent // out for i in range(out))
    return (extent + out - 1) // out + 1


def before(x: Tensor, count: int) -> Tensor:
    """With `count` extents of 1 at the end, to broadcast before that many axes."""
    return x.reshape(*x.shape, *[1] * count)
