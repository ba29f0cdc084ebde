"""A model for bridge bench --engine and --lowerings, times, and what a record says of this machine."""

from importlib.util import find_spec

import pytest

from bridge.engine.timing import Timing

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
MODEL = """
import bridge, torch

class Net(torch.nn.Module):
    def forward(self, x):
        return bridge.relu(bridge.relu(x @ x, 0.1).abs() + 1, float("inf"))

def bridge_model(argv):
    if "--fail" in argv:
        raise ValueError("asked to")
    return Net().eval(), (torch.randn(int(argv[-1]), 32, 32),)
"""
HERE = {"gpu": "NVIDIA A GPU", "driver": "1.2", "date": "2026-01-02", "versions": {"torch": "2.11"}}


def timing(us, spread=0.1):
    return Timing(us, us - spread, us + spread, spread)
