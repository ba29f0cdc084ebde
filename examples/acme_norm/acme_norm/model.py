"""A mixing layer around the gated norm; its weights are random."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acme_norm.gated_rms_norm import gated_rms_norm


class Mixer(nn.Module):
    """Projects, mixes neighbouring steps, normalises with a gate, projects back, and adds its input.

    width: channels. inner: of these in between; any number. taps: steps that are mixed, this one and those before it.
    """

    def __init__(self, width: int = 64, inner: int = 100, taps: int = 4, eps: float = 1e-6) -> None:
        super().__init__()
        self.taps, self.eps = taps, eps
        self.enter = nn.Linear(width, 2 * inner)
        self.mix = nn.Conv1d(inner, inner, taps, groups=inner)
        self.weight = nn.Parameter(torch.rand(inner) + 0.5)
        self.leave = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, width]. Returns the same shape."""
        values, gate = self.enter(x).chunk(2, dim=-1)  # [B, T, inner] each
        mixed = self.mix(F.pad(values.transpose(1, 2), (self.taps - 1, 0))).transpose(1, 2)
        return x + self.leave(gated_rms_norm(mixed, gate, self.weight, self.eps))
