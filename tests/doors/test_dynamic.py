"""Dynamic shapes at the doors of torch.compile: transformers' Llama as it stands, and what torch.compile passes to
torch_tensorrt beside tensors."""

from collections import Counter
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bridge
from bridge.doors import torch_tensorrt_door as door
from bridge.doors.backend import bridge_backend
from bridge.errors import EngineError

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what works without a GPU")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGET = None if torch.cuda.is_available() else "sm86"
VOCABULARY = 64


@pytest.fixture(autouse=True)
def fresh(fresh_dynamo):
    pass


def marked(tensor, *axes):
    for axis in axes:
        torch._dynamo.mark_dynamic(tensor, axis, min=2, max=64)
    return tensor


# torch.compile(backend="bridge")


@pytest.fixture
def llama():
    """With a cache of keys and values, which it returns, and its mask."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.LlamaConfig(
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 64},
    )
    return transformers.LlamaForCausalLM(config).eval()


def compare(fast, model, ids):
    found, expected = fast(ids), model(ids)
    assert found.logits.shape == (*ids.shape, VOCABULARY)
    torch.testing.assert_close(found.logits, expected.logits)
    for ours, theirs in zip(found.past_key_values.layers, expected.past_key_values.layers, strict=True):
        torch.testing.assert_close((ours.keys, ours.values), (theirs.keys, theirs.values))


# How torch.compile is told, shapes in the order of the calls, and the greatest shape of each engine. An extent of 1 is
# a fixed one for torch.compile.
SWEEPS = {
    "dynamic": ([(2, 16), (3, 9), (16, 128), (1, 5), (1, 40)], [(16, 128), (1, 512)]),
    "marked": ([(2, 16), (3, 9), (64, 64), (2, 2)], [(64, 64)]),
    "automatic": ([(2, 16), (2, 17), (3, 20), (5, 33)], [(2, 16), (2, 2048), (32, 256)]),
}


@pytest.mark.parametrize("how", SWEEPS)
def test_llama_as_it_stands(llama, on_cpu, how):
    options = {"target": "sm86", "cache": False}
    fast = torch.compile(llama, backend=bridge_backend, dynamic=True if how == "dynamic" else None, options=options)
    shapes, greatest = SWEEPS[how]
    for shape in shapes:
        ids = torch.randint(0, VOCABULARY, shape)
        compare(fast, llama, marked(ids, 0, 1) if how == "marked" else ids)
    report = bridge.report(fast)
    assert [engine.inputs[0].max for engine in report.engines] == greatest
    assert report.plugin_counts() == {"rope": len(greatest)}
    assert (report.graph_breaks, len(report.recompiles), report.torch_nodes) == ([], len(greatest) - 1, [])


# torch.compile(backend="torch_tensorrt")


def by_torch_tensorrt(model, dynamic, **options):
    settings = {"min_block_size": 1, "pass_through_build_failures": True} | options
    return torch.compile(model.eval().to(DEVICE), backend="torch_tensorrt", dynamic=dynamic, options=settings)


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


@needs_torch_tensorrt
@pytest.mark.parametrize("how", ["dynamic", "marked", "automatic"])
def test_numbers_beside_tensors_are_found_in_them_or_fixed(how):
    """torch_tensorrt leaves the graph to PyTorch, so that its results can be compared without a GPU."""
    model = Reshaped()
    with door.cross_compile(TARGET):
        fast = by_torch_tensorrt(model, True if how == "dynamic" else None, min_block_size=100)
        for rows in (2, 4, 3):
            args, kwargs = reshaped_arguments(rows, mark=how == "marked")
            torch.testing.assert_close(fast(*args, **kwargs), model(*args, **kwargs))
    report = bridge.report(fast)
    assert len(report.graphs) == 3 and len(report.recompiles) == 2, "for each value of the integer"
    assert Counter(node.operator for node in report.torch_nodes)["bridge.relu.default"] == 9


class Heads(nn.Module):
    """Attention of rotated queries and keys, with tensors in a dictionary, as transformers' models have them."""

    def __init__(self, heads=4, head_dim=8, written_out=False):
        super().__init__()
        self.head_dim, self.written_out = head_dim, written_out
        self.project = nn.Linear(heads * head_dim, 3 * heads * head_dim)
        angles = torch.outer(torch.arange(64.0), 100.0 ** -torch.linspace(0, 1, head_dim // 2))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, **named):
        x = named["x"]
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.project(x).chunk(3, -1))
        q, k = bridge.rope(q, k, self.cos[: x.shape[1]], self.sin[: x.shape[1]])
        if self.written_out:
            return ((q @ k.mT / self.head_dim**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


@needs_torch_tensorrt
@without_a_gpu
@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "marked"])
def test_attention_beside_a_plugin_is_one_engine(dynamic):
    x = torch.randn(2, 7, 32, dtype=torch.half)
    with door.cross_compile(TARGET) as engines, pytest.raises(EngineError, match="this engine was built for sm86"):
        fast = by_torch_tensorrt(Heads().half(), dynamic)
        fast(x=x if dynamic else marked(x, 0, 1))
    (engine,) = engines
    counts = Counter(layer["op"] or layer["type"] for layer in door.layers_of(engine))
    assert counts["rope"] == 1 and counts["ATTENTION_INPUT"] == 1
    shapes = [output["shape"] for layer in door.layers_of(engine) if layer["op"] for output in layer["outputs"]]
    assert shapes == [[-1, 4, -1, 8]] * 2
    report = bridge.report(fast)
    assert [found.engine for found in report.engines] == engines and report.plugin_counts() == {"rope": 1}
    assert (len(report.graphs), report.recompiles, report.torch_nodes) == (1, [], []) and "rope" in str(report)


@needs_torch_tensorrt
@without_a_gpu
@pytest.mark.parametrize("dynamic", [True, False])
def test_llama_as_it_stands_by_torch_tensorrt(llama, dynamic):
    """torch_tensorrt leaves concatenations with an empty cache to PyTorch, so that there are several engines."""
    with door.cross_compile(TARGET) as engines, pytest.raises(EngineError, match="this engine was built for sm86"):
        by_torch_tensorrt(llama.half(), dynamic)(torch.randint(0, VOCABULARY, (2, 16)))
    plugins = [layer["op"] for engine in engines for layer in door.layers_of(engine) if layer["op"]]
    assert plugins == ["rope"]


@pytest.mark.gpu(engines=True)
def test_marked_shapes_on_the_gpu_equal_eager(device):
    model = Heads(written_out=True).half()
    fast = by_torch_tensorrt(model, None)
    for shape in ((2, 7, 32), (5, 64, 32), (3, 2, 32)):
        x = marked(torch.randn(shape, device=device, dtype=torch.half), 0, 1)
        torch.testing.assert_close(fast(x=x), model(x=x), atol=2e-2, rtol=2e-2)
    report = bridge.report(fast)
    assert len(report.engines) == 1 and report.plugin_counts() == {"rope": 1} and not report.recompiles
