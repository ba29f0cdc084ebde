"""The models that the tests serve; a server without a GPU computes them in PyTorch, see sitecustomize.py."""

import torch
from torch import nn
from torch.export import Dim

import bridge

ROWS = 8


class Everything(nn.Module):
    """A result of every data type, a structure, an input that is passed on, a literal and None."""

    def forward(self, x, half, brain, ids, flags, small):
        # x: [B, L] float32; half, brain: [B, 2]; ids: [B] int64; flags: [B, 2] bool; small: [B, 3] int32
        return {
            "rectified": bridge.relu(x, 0.1),
            "half": half * 2,
            "brain": brain + 1,
            "ids": ids + 1,
            "flags": torch.logical_not(flags),
            "nested": (small + 1, x),
            "threshold": 0.5,
            "label": "cat",
            "nothing": None,
        }


class Plain(nn.Module):
    """Has no rows: its inputs are one number and a matrix."""

    def forward(self, scale, matrix):
        return matrix * scale, scale + 1


def everything(rows=2, length=3, seed=0):
    """Arguments for the first model."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, length, generator=generator)
    pair = torch.randn(rows, 2, generator=generator)
    return x, pair.half(), pair.bfloat16(), torch.arange(rows) + seed, pair > 0, torch.full((rows, 3), seed).int()


BATCH, LENGTH = Dim("batch", min=1, max=ROWS), Dim("length", min=1, max=5)
DYNAMIC = ({0: BATCH, 1: LENGTH}, *({0: BATCH} for _ in range(5)))
PLAIN = (torch.tensor(2.0), torch.ones(2, 3))
MODELS = {"everything": Everything(), "plain": Plain()}
