"""An engine of four dtypes with dynamic extents down to none, its inputs, and what it has to compute."""

from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch

from bridge.config import Config
from bridge.engine_file.contents import OutputSpec, TensorSpec
from bridge.errors import FlavourError
from bridge.tensorrt.install.flavour import Flavour, detect
from bridge.tensorrt.install.target import resolve_target
from bridge.tensorrt.network.build import build_engine, create_network

INPUTS = (TensorSpec("x", "float16", (0, 4), (4, 4), (64, 4)), TensorSpec("n", "int64", (0,), (3,), (5,)))
OUTPUTS = (
    OutputSpec("relu", "float16", (-1, 4)),
    OutputSpec("twice", "int64", (-1,)),
    OutputSpec("positive", "bool", (-1, 4)),
    OutputSpec("cast", "bfloat16", (-1, 4)),
)
RTX = Flavour("tensorrt_rtx", "1.7.1.116", "2.11.0")


def expected(x, n):
    return x.relu(), n + n, x > 0, x.to(torch.bfloat16)


def detect_or_skip():
    try:
        return detect()
    except FlavourError as error:
        pytest.skip(str(error))


def build(target=None):
    """A network of four dtypes, with dynamic extents down to none, built without torch_tensorrt."""
    flavour = detect_or_skip()
    if target is not None and not flavour.traits.builds_without_gpu and not torch.cuda.is_available():
        pytest.skip(f"{flavour.name} builds engines on a GPU alone")
    trt = flavour.trt()
    builder, network = create_network(flavour)
    x = network.add_input("x", trt.DataType.HALF, (-1, 4))
    n = network.add_input("n", trt.DataType.INT64, (-1,))
    zero = network.add_constant((1, 1), trt.Weights(numpy.zeros((1, 1), "float16"))).get_output(0)
    layers = {
        "relu": network.add_activation(x, trt.ActivationType.RELU),
        "twice": network.add_elementwise(n, n, trt.ElementWiseOperation.SUM),
        "positive": network.add_elementwise(x, zero, trt.ElementWiseOperation.GREATER),
        "cast": network.add_cast(x, trt.DataType.BF16),
    }
    for name, layer in layers.items():
        layer.get_output(0).name = name
        network.mark_output(layer.get_output(0))
    profile = builder.create_optimization_profile()
    for spec in INPUTS:
        profile.set_shape(spec.name, spec.min, spec.opt, spec.max)
    target = resolve_target(flavour, target)
    engine = build_engine(flavour, builder, network, (profile,), target, Config(progress=False))
    return {
        "engine": engine,
        "flavour": flavour.name,
        "tensorrt_version": flavour.version,
        "target": target,
        "plugins": {},
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "output_map": [0, 1, 2, 3],
    }


def inputs(batch=4, length=3, device="cuda", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, generator=generator).half()
    return x.to(device), torch.randint(-9, 9, (length,), generator=generator).to(device)


def in_threads(work, count=4):
    """Calls work(0), work(1) … in a thread each; fails where one of them does."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, seed) for seed in range(count)]:
            done.result()


def check(outputs, x, n):
    assert len(outputs) == 4
    for output, wanted in zip(outputs, expected(x, n), strict=True):
        torch.testing.assert_close(output, wanted, rtol=0, atol=0)


def captured(call, *args):
    """A CUDA graph of a call, after one outside of it; and the outputs that its replays write."""
    with torch.cuda.stream(torch.cuda.Stream()):
        call(*args)
        torch.cuda.current_stream().synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call(*args)
    return graph, outputs
