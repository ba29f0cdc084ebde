"""Each op as a plugin inside an engine, on a GPU: it executes, at every shape, from several streams and in a graph."""

import pytest
import torch
from samples import FIXED, MODULES, PAIRS

import bridge
from bridge.core.op import OPS
from bridge.testing import cast, outputs_of
from bridge.testing.arguments import with_dtype

DTYPES = ("float32", "float16", "bfloat16")
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}
SIZES = (1, 2, 3, 5, 8)


class Net(torch.nn.Module):
    """The op between layers of TensorRT's own, so that its tensors are the engine's; bytes are the engine's inputs."""

    def __init__(self, name, kwargs):
        super().__init__()
        self.name, self.kwargs = name, kwargs

    def forward(self, x, rest):
        x = x * 2 if x.is_floating_point() else x
        outputs = outputs_of(OPS[self.name].overload(x, *rest, **self.kwargs))
        return [output + 1 for output in outputs]


def shapes_of(name):
    batch = torch.export.Dim("batch", min=1, max=8)
    length = torch.export.Dim("length", min=7, max=14)
    return MODULES[name].growing_shapes(batch, length)


def compiled(name, dtype):
    net = Net(name, with_dtype(OPS[name], PAIRS[name][2], getattr(torch, dtype))).eval()
    engine = bridge.compile(net, given(name, dtype, 2, device="cpu"), dynamic_shapes=shapes_of(name), lowering="plugin")
    assert engine.plugin_counts() == {name: 1}
    return net, engine


def given(name, dtype, size, seed=0, device="cuda"):
    x, rest = MODULES[name].growing(size, seed)
    return cast([x], getattr(torch, dtype), device)[0], cast(rest, getattr(torch, dtype), device)


def present(x, rest):
    """The engine's inputs: an absent optional tensor is none of them."""
    return [x, *(tensor for tensor in rest if tensor is not None)]


def check(actual, net, x, rest, dtype):
    wide = Net(net.name, with_dtype(OPS[net.name], net.kwargs, torch.float32))
    expected = wide(*cast([x.cpu()], torch.float32), cast(rest, torch.float32, "cpu"))
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == getattr(torch, dtype) and a.shape == b.shape
        torch.testing.assert_close(
            a.cpu().float(), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * b.abs().max().item()
        )


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FIXED)
def test_right_at_every_shape_and_our_kernel_runs(name, dtype):
    net, engine = compiled(name, dtype)
    for size in SIZES:
        x, rest = given(name, dtype, size, seed=size)
        check(engine(x, rest), net, x, rest, dtype)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        engine(x, rest)
        torch.cuda.synchronize()
    kernels = [event.key for event in trace.key_averages()]
    assert any(f"bridge::{name}_" in kernel for kernel in kernels), kernels


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("name", FIXED)
def test_two_contexts_on_two_streams(name):
    """At once, with different shapes, many times over."""
    from bridge.tensorrt.run.engine import Engine

    net, module = compiled(name, "float32")
    engine = Engine(module.file)
    inputs = [given(name, "float32", size, seed=size) for size in (8, 3)]
    contexts, streams = [engine.new_context() for _ in inputs], [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    results = []
    for _ in range(50):
        for (x, rest), context, stream in zip(inputs, contexts, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(context(*present(x, rest)))
    torch.cuda.synchronize()
    for place, outputs in enumerate(results):
        x, rest = inputs[place % 2]
        check(outputs, net, x, rest, "float32")


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("name", FIXED)
def test_captured_in_a_graph(name):
    """Replays compute from what the inputs hold by then."""
    from bridge.tensorrt.run.engine import Engine

    net, module = compiled(name, "float32")
    context = Engine(module.file).new_context()
    x, rest = given(name, "float32", 3)
    context(*present(x, rest))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = context(*present(x, rest))
    for scale in (1.0, -0.5):
        x.copy_(x * scale if x.is_floating_point() else 255 - x)
        for output in outputs:
            output.fill_(float("nan"))
        graph.replay()
        check(outputs, net, x, rest, "float32")
