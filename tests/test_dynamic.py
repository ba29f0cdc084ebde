"""Dynamic shapes at the doors of torch.compile: what is passed beside tensors, and what engines are built for."""

from collections import Counter
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bridge
from bridge import torch_tensorrt_door as door
from bridge.errors import EngineError

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGET = None if torch.cuda.is_available() else "sm86"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def by_torch_tensorrt(model, dynamic, **options):
    settings = {"min_block_size": 1, "pass_through_build_failures": True} | options
    return torch.compile(model.eval().to(DEVICE), backend="torch_tensorrt", dynamic=dynamic, options=settings)


def marked(tensor, *axes):
    for axis in axes:
        torch._dynamo.mark_dynamic(tensor, axis, min=2, max=64)
    return tensor


class Reshaped(nn.Module):
    """Extents of every tensor, an integer and a float: all that torch.compile may pass beside tensors."""

    def __init__(self):
        super().__init__()
        self.scale = 1.5

    def forward(self, tensors, named, *, times=3):
        flat = [bridge.relu(x * self.scale, 0.1).reshape(x.shape[0] * x.shape[1]) for x in (*tensors, named["z"])]
        return flat[0] * times, flat[1], flat[2] * tensors[1].shape[0]


def reshaped_arguments(rows, mark):
    tensors = [torch.randn(rows + n, 5 + 2 * n + rows, device=DEVICE) for n in range(3)]
    if mark:
        tensors = [marked(tensor, 0, 1) for tensor in tensors]
    return (tensors[:2], {"z": tensors[2]}), {"times": rows}


@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "marked"])
def test_numbers_beside_tensors_are_found_in_them_or_fixed(dynamic):
    """torch_tensorrt leaves the graph to PyTorch, so that its results can be compared without a GPU."""
    model = Reshaped()
    with door.cross_compile(TARGET):
        fast = by_torch_tensorrt(model, dynamic, min_block_size=100)
        for rows in (2, 4, 3):
            args, kwargs = reshaped_arguments(rows, mark=dynamic is None)
            torch.testing.assert_close(fast(*args, **kwargs), model(*args, **kwargs))


class Heads(nn.Module):
    """Attention of rotated queries and keys, with tensors in a dictionary, as transformers' models have them."""

    def __init__(self, heads=4, head_dim=8):
        super().__init__()
        self.head_dim = head_dim
        self.project = nn.Linear(heads * head_dim, 3 * heads * head_dim)
        angles = torch.outer(torch.arange(64.0), 100.0 ** -torch.linspace(0, 1, head_dim // 2))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, **named):
        x = named["x"]
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.project(x).chunk(3, -1))
        q, k = bridge.rope(q, k, self.cos[: x.shape[1]], self.sin[: x.shape[1]])
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "marked"])
def test_attention_beside_a_plugin_is_one_engine(dynamic):
    model, x = Heads().half(), torch.randn(2, 7, 32, dtype=torch.half, device=DEVICE)
    with door.cross_compile(TARGET) as engines:
        fast = by_torch_tensorrt(model, dynamic)
        call(fast, x=x if dynamic else marked(x, 0, 1))
    (engine,) = engines
    counts = Counter(layer["op"] or layer["type"] for layer in door.layers_of(engine))
    assert counts["rope"] == 1 and counts["ATTENTION_INPUT"] == 1
    shapes = [output["shape"] for layer in door.layers_of(engine) if layer["op"] for output in layer["outputs"]]
    assert shapes == [[-1, 4, -1, 8]] * 2


def call(fast, *args, **kwargs):
    """Compiles, and runs where there is a GPU."""
    if torch.cuda.is_available():
        return fast(*args, **kwargs)
    with pytest.raises(EngineError, match="this engine was built for sm86"):
        fast(*args, **kwargs)
    return None
