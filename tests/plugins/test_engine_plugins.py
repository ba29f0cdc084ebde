"""Each op as a plugin inside an engine, on a GPU: it executes, at every shape, from several streams and in a graph."""

import pytest
import torch
from samples import (
    FIXED,
    deform_conv2d_arguments,
    ms_deform_attn_arguments,
    ms_deform_attn_fused_arguments,
    roi_align_arguments,
    rope_arguments,
)

import bridge
from bridge.core.op import OPS
from bridge.testing import cast, outputs_of

DTYPES = ("float32", "float16", "bfloat16")
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}
SIZES = (1, 2, 3, 5, 8)


class Net(torch.nn.Module):
    """The op between layers of TensorRT's own, so that its tensors are the engine's."""

    def __init__(self, name, kwargs):
        super().__init__()
        self.name, self.kwargs = name, kwargs

    def forward(self, x, rest):
        outputs = outputs_of(OPS[self.name].overload(x * 2, *rest, **self.kwargs))
        return [output + 1 for output in outputs]


def arguments(name, size, seed=0):
    """x and the other tensors, at a batch of `size` and extents that grow with it."""
    if name == "relu":
        return torch.randn(size, size + 6, 33, generator=torch.Generator().manual_seed(seed)), []
    if name == "rope":
        q, *rest = rope_arguments(size, size + 6, (4, 2), 64, table="ids [1, S]", seed=seed)
        rest[1:3] = [table[:6] for table in rest[1:3]]
        rest[3] = rest[3] % 6
        return q, rest
    if name in MS_DEFORM_ATTN:
        value, *rest = MS_DEFORM_ATTN[name](size, size + 6, seed=seed)
        return value, rest
    if name == "roi_align":
        x, *rest = roi_align_arguments(2 * size + 1, size, 8, (size + 6, 16), seed=seed)
        return x, rest
    x, *rest = deform_conv2d_arguments(size, 8, (size + 6, 16), 8, padding=(1, 1), bias=False, seed=seed)
    return x, rest


KWARGS = {
    "relu": {"negative_slope": 0.1, "max_value": 1.0},
    "rope": {},
    "deform_conv2d": {"padding": [1, 1]},
    "roi_align": {"spatial_scale": 0.25, "sampling_ratio": 2, "aligned": True},
}
MS_DEFORM_ATTN = {"ms_deform_attn": ms_deform_attn_arguments, "ms_deform_attn_fused": ms_deform_attn_fused_arguments}


def shapes_of(name):
    batch = torch.export.Dim("batch", min=1, max=8)
    length = torch.export.Dim("length", min=7, max=14)
    if name == "relu":
        return {"x": {0: batch, 1: length}, "rest": []}
    if name == "rope":
        head = {0: batch, 2: length}
        return {"x": head, "rest": [head, None, None, {1: length}]}
    if name in MS_DEFORM_ATTN:
        queries = {0: batch, 1: length}
        return {"x": {0: batch}, "rest": [None, None, *[queries] * (len(OPS[name].tensors) - 3)]}
    plane = {0: batch, 2: length}
    if name == "roi_align":
        return {"x": plane, "rest": [{0: torch.export.Dim("count", min=0, max=50)}]}
    return {"x": plane, "rest": [plane, None, None, plane]}


def compiled(name, dtype):
    net = Net(name, KWARGS.get(name, {})).eval()
    x, rest = (cast(part, getattr(torch, dtype)) for part in ([arguments(name, 2)[0]], arguments(name, 2)[1]))
    engine = bridge.compile(net, (x[0], rest), dynamic_shapes=shapes_of(name), lowering="plugin")
    assert engine.plugin_counts() == {name: 1}
    return net, engine


def given(name, dtype, size, seed=0):
    x, rest = arguments(name, size, seed)
    return cast([x], getattr(torch, dtype), "cuda")[0], cast(rest, getattr(torch, dtype), "cuda")


def present(x, rest):
    """The engine's inputs: an absent optional tensor is none of them."""
    return [x, *(tensor for tensor in rest if tensor is not None)]


def check(actual, net, x, rest, dtype):
    expected = net(x.cpu().float(), cast(rest, torch.float32, "cpu"))
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
        x.mul_(scale)
        for output in outputs:
            output.fill_(float("nan"))
        graph.replay()
        check(outputs, net, x, rest, "float32")
