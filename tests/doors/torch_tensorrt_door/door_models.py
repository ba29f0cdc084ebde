"""What the tests of the second door compile, and how."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import bridge
from bridge.doors import torch_tensorrt_door as door
from bridge.tensorrt.install import gpu

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
OPTIONS = {"min_block_size": 1, "decompose_attention": True}


def make(model, dtype=torch.float16):
    torch.manual_seed(0)
    model = model().eval().to(dtype)
    args, shapes = model.example(dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), tuple(tensor.to(device) for tensor in args), shapes


class Leaky(nn.Module):
    """One bridge op between others."""

    def __init__(self, slope=0.1):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return bridge.relu(x * 2, self.slope) + 1


def hash_of(torch_tensorrt, model, *args):
    from torch_tensorrt.dynamo._engine_cache import BaseEngineCache
    from torch_tensorrt.dynamo._settings import CompilationSettings

    graph = torch.export.export(model.eval(), args or (torch.randn(2, 3),)).module()
    with gpu.without_gpu():
        return BaseEngineCache.get_hash(graph, [torch_tensorrt.Input((2, 3))], CompilationSettings())


def layer_counts(torch_tensorrt):
    """How many layers each engine has that torch_tensorrt makes of Leaky, for a GPU that is not here."""
    with door.cross_compile("sm86") as engines:
        torch_tensorrt.compile(Leaky().eval(), ir="dynamo", arg_inputs=[torch.randn(2, 3)], min_block_size=1)
    return [len(door.layers_of(engine)) for engine in engines]
