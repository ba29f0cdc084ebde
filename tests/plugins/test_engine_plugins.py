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


@pytest.mark.parametrize("name", FIXED)
def test_the_calls_of_every_size_can_be_captured(name):
    """What the tests on a GPU below compile and call."""
    net = Net(name, PAIRS[name][2]).eval()
    program = torch.export.export(net, given(name, "float32", 2, device="cpu"), dynamic_shapes=shapes_of(name))
    for size in SIZES:
        args = given(name, "float32", size, seed=size, device="cpu")
        torch.testing.assert_close(program.module()(*args), net(*args), equal_nan=True)


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
    # A fused op may launch its plain op's kernels, with more to do.
    assert any(f"bridge::{name.removesuffix('_fused')}_" in kernel for kernel in kernels), kernels


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


class Fed(torch.nn.Module):
    """An op between convolutions, whose maps an engine may keep channels-last."""

    def __init__(self, name, channels=32):
        super().__init__()
        self.name, self.weight = name, torch.nn.Parameter(torch.randn(channels, channels, 3, 3) / 17)
        self.before, self.offsets = torch.nn.Conv2d(channels, channels, 1), torch.nn.Conv2d(channels, 18, 3, padding=1)
        self.after = torch.nn.Conv2d(channels, 16, 1)

    def forward(self, x, rois):
        x = self.before(x).relu()
        if self.name == "deform_conv2d":
            return self.after(bridge.deform_conv2d(x, self.offsets(x), self.weight, padding=(1, 1)))
        return self.after(bridge.roi_align(x, rois, 7, 1.0, 2))


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("name", ["deform_conv2d", "roi_align"])
def test_maps_of_many_channels_are_read_as_they_lie(name, fed, dtype):
    """Of convolutions, and of the caller."""
    torch.manual_seed(3)
    net = Fed(name).eval()
    if not fed:
        net.before, net.after = torch.nn.Identity(), torch.nn.Identity()
    x, rois = torch.randn(2, 32, 14, 17), torch.tensor([[0.0, 1, 2, 9, 11], [1, 0, 0, 13, 9]])
    with torch.no_grad():
        expected = net(x, rois)
        args = cast([x, rois], getattr(torch, dtype), "cuda")
        engine = bridge.compile(net.to("cuda", getattr(torch, dtype)), tuple(args), lowering="plugin", tf32=False)
        actual = engine(*args).cpu().float()
    rounding = TOLERANCE["float16" if dtype == "float32" else dtype]  # TensorRT's convolutions round float32 to TF32
    torch.testing.assert_close(actual, expected, rtol=0, atol=2 * rounding * expected.abs().max().item())
