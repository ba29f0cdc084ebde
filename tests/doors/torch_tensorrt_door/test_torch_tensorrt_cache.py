"""The keys of torch_tensorrt's engine cache: they hold the arguments of operators."""

import functools

import pytest
import torch
from door_models import Leaky, hash_of, needs_torch_tensorrt
from torch import nn

from bridge.tensorrt.guest.graph_hash import hash_arguments


@needs_torch_tensorrt
def test_the_engine_caches_key_holds_the_arguments(torch_tensorrt):
    first, again, other = (hash_of(torch_tensorrt, Leaky(slope)) for slope in (0.1, 0.1, 0.2))
    assert first == again != other
    assert len(first) < 256  # a folder's name


def test_hash_of_arguments_tells_graphs_apart_and_not_names():
    def graph(body):
        return torch.export.export(type("Model", (nn.Module,), {"forward": body})(), (torch.ones(2), torch.ones(2)))

    bodies = {
        "a - b": lambda self, a, b: a - b,
        "b - a": lambda self, a, b: b - a,
        "times 2": lambda self, a, b: (a - b) * 2,
        "times 2.0": lambda self, a, b: (a - b) * 2.0,
        "dtype": lambda self, a, b: (a - b).to(torch.float16),
        "slice": lambda self, a, b: (a - b)[1:],
    }
    hashes = {name: hash_arguments(graph(body).graph) for name, body in bodies.items()}
    assert len(set(hashes.values())) == len(bodies)
    renamed = graph(lambda self, left, right: left - right)
    for node in renamed.graph.nodes:
        node._rename(f"{node.name}_renamed")
    assert hash_arguments(renamed.graph) == hashes["a - b"]


# On a GPU


@pytest.fixture
def refittable(torch_tensorrt, device):
    """torch_tensorrt.compile of engines whose weights can be refitted; its engine cache takes no others."""
    compile_one = functools.partial(torch_tensorrt.compile, ir="dynamo", min_block_size=1, immutable_weights=False)
    try:
        compile_one(nn.Linear(3, 3).eval().to(device), arg_inputs=[torch.randn(2, 3, device=device)])
    except TypeError as error:  # it takes the None that TensorRT gives for an engine
        pytest.skip(f"TensorRT builds no engine here whose weights can be refitted: {error}")
    return compile_one


@pytest.mark.gpu(engines=True)
def test_engines_of_two_slopes_do_not_mix_in_the_cache(refittable, device, tmp_path):
    cached = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": str(tmp_path)}
    x = torch.randn(2, 3, device=device)
    for slope in (0.1, 0.5, 0.1):
        model = Leaky(slope).eval().to(device)
        compiled = refittable(model, arg_inputs=[x], **cached)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)
    assert len(list(tmp_path.iterdir())) == 2
