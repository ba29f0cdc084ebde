"""What the tests of torch.compile(backend="bridge") compile, and how."""

import math

import pytest
import torch
from torch import nn

import bridge
from bridge.doors.backend import bridge_backend
from bridge.errors import EngineError

OPTIONS = {"target": "sm86", "cache": False}


def compiled(model, *, dynamic=None, **options):
    return torch.compile(model.eval(), backend=bridge_backend, dynamic=dynamic, options=OPTIONS | options)


def positions(batch, length):
    return torch.arange(length).repeat(batch, 1)


def built(module, *args):
    """Compiles by a first call, which ends where the engine would run."""
    with pytest.raises(EngineError, match="there is no CUDA GPU here"):
        module(*args)
    return bridge.report(module)


needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


class LogGamma(nn.Module):
    """A number that no expression of symbols gives: torch.export takes it of one length."""

    def forward(self, x):
        return bridge.relu(x) * math.lgamma(x.shape[1] / 2)


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, scale, *, rows=None):
        y = bridge.relu(self.linear(x), 0.1) * scale
        return {"y": y, "rows": x.shape[0] * 2 + 1, "scale": scale, "none": rows, "more": (y + 1, x.shape[1])}


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        x = bridge.relu(self.linear(x), 0.1)
        print("here")
        return bridge.relu(self.linear(x) + 1.0)


class Unsupported(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        y = bridge.relu(self.linear(x), 0.1)
        values = torch.linalg.svdvals(y.double()).float()
        return bridge.relu(self.linear(y).view(y.shape[0] * 2, -1) + 1.0).sum() + values, y.view(y.shape[0], 2, -1)
