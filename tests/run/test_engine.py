"""Engines: what they refuse, and why; with a GPU, that they compute what TensorRT's layers say."""

import types
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch

from bridge.cli import self_test
from bridge.config import Config
from bridge.core.op import OPS
from bridge.engine_file.contents import OutputSpec, TensorSpec
from bridge.errors import EngineError, EngineInputError, FlavourError
from bridge.tensorrt.install.flavour import Flavour, detect
from bridge.tensorrt.install.target import resolve_target
from bridge.tensorrt.network.build import build_engine, create_network
from bridge.tensorrt.run import engine as engine_module
from bridge.tensorrt.run.engine import Engine, check_compatible
from bridge.tensorrt.run.input_check import InputCheck

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
    engine = build_engine(flavour, builder, network, profile, target, Config(progress=False))
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


@pytest.fixture(scope="module")
def engine(make_engine_file):
    return Engine(make_engine_file(**build()))


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


# Inputs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, n: (x,), "the engine takes 2 inputs (x, n), not 1"),
        (lambda x, n: (x, n, n), "the engine takes 2 inputs (x, n), not 3"),
        (lambda x, n: ([1.0], n), "input x is a list; the engine takes a dense tensor"),
        (lambda x, n: (x.to_sparse(), n), "input x is a sparse_coo tensor; the engine takes a dense tensor"),
        (
            lambda x, n: (x.float(), n),
            "input x has dtype float32; the engine takes float16: pass it as x.to(torch.float16), "
            "or compile the model for float32",
        ),
        (lambda x, n: (x, n.int()), "input n has dtype int32; the engine takes int64"),
        (lambda x, n: (x.to("meta"), n), "input x is on meta; the engine runs on cpu: pass it as x.to('cpu')"),
        (
            lambda x, n: (x[0], n),
            "input x has shape (4,), of rank 1; the engine takes rank 2, from (0, 4) to (64, 4)",
        ),
        (
            lambda x, n: (x.repeat(17, 1), n),
            "input x has shape (68, 4): dimension 0 is 68, and the engine takes 0 to 64; "
            "compile the model with a dynamic_shapes that allows 68",
        ),
        (
            lambda x, n: (x[:, :3], n),
            "input x has shape (4, 3): dimension 1 is 3, and the engine takes 4 alone",
        ),
    ],
)
def test_inputs_that_an_engine_does_not_take(change, words):
    with pytest.raises(EngineInputError) as caught:
        InputCheck(INPUTS, torch.device("cpu")).check(change(*inputs(device="cpu")))
    assert words in str(caught.value)


@pytest.mark.parametrize(("batch", "length"), [(0, 0), (1, 5), (64, 3)])
def test_inputs_that_it_takes(batch, length):
    shapes = InputCheck(INPUTS, torch.device("cpu")).check(inputs(batch, length, "cpu"))
    assert shapes == ((batch, 4), (length,))


# Where an engine can run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"flavour": "tensorrt", "tensorrt_version": "10.15.1.29"},
            "the engine was built with tensorrt 10.15.1.29 for sm86; in use here is tensorrt_rtx 1.7.1.116, "
            "which cannot read it: compile the model again here, or install tensorrt 10.15.1.29",
        ),
        (
            {"tensorrt_version": "1.4.0.76"},
            "the engine was built with tensorrt_rtx 1.4.0.76 for sm86; in use here is version 1.7.1.116",
        ),
        ({"plugins": {"none": "1"}}, f"the engine needs plugin none version 1; this bridge has {min(OPS)} 1, "),
        ({"plugins": {"relu": "2"}}, f"the engine needs plugin relu version 2; this bridge has {min(OPS)} 1, "),
    ],
)
def test_engines_from_elsewhere(make_engine_file, changes, words):
    with pytest.raises(EngineError) as caught:
        check_compatible(make_engine_file(**changes), RTX)
    assert words in str(caught.value)


def test_an_engine_of_another_build_number_is_left_to_tensorrt(make_engine_file):
    check_compatible(make_engine_file(tensorrt_version="1.7.0.5"), RTX)


def test_no_tensorrt(make_engine_file, monkeypatch):
    def none():
        raise FlavourError("no TensorRT is installed")

    monkeypatch.setattr(engine_module, "detect", none)
    with pytest.raises(FlavourError, match="no TensorRT is installed"):
        Engine(make_engine_file())


def test_no_gpu(make_engine_file, monkeypatch):
    monkeypatch.setattr(engine_module, "detect", lambda: RTX)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"no CUDA GPU here to run on; the engine was built with tensorrt_rtx .*sm86"):
        Engine(make_engine_file())


def test_devices_that_are_none(make_engine_file, monkeypatch):
    monkeypatch.setattr(engine_module, "detect", lambda: RTX)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineError, match="runs on a CUDA GPU, not on cpu"):
        Engine(make_engine_file(), "cpu")
    with pytest.raises(EngineError, match="there is no cuda:1: 1 GPUs are visible"):
        Engine(make_engine_file(), 1)


def fake_flavour(engine):
    """A flavour whose TensorRT reports one error and then deserialises to `engine`."""

    class Logger:
        Severity = types.SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, content):
            self.logger.log(1, "the plan is for another device")
            return engine

    module = types.SimpleNamespace(ILogger=Logger, Runtime=Runtime, TensorLocation=types.SimpleNamespace(DEVICE=0))

    class Fake:
        name, version = "tensorrt_rtx", "1.7.1.116"

        def trt(self):
            return module

    return Fake()


def test_an_engine_that_tensorrt_does_not_load_names_target_and_gpu(make_engine_file, monkeypatch):
    monkeypatch.setattr(engine_module.gpu, "current_target", lambda: "sm90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    with pytest.raises(EngineError) as caught:
        engine_module._deserialize(make_engine_file(plugins={}), fake_flavour(None))
    assert str(caught.value) == (
        "tensorrt_rtx 1.7.1.116 did not load the engine on Some GPU (sm90); it was built with tensorrt_rtx 1.7.1.116 "
        "for sm86; compile the model with target='sm90'\nTensorRT says:\n  the plan is for another device"
    )


class FakeEngine:
    """What _check_tensors asks an engine."""

    num_io_tensors = 1
    location = 0

    def get_tensor_name(self, index):
        return "x"

    def get_tensor_dtype(self, name):
        return types.SimpleNamespace(name="HALF")

    def get_tensor_location(self, name):
        return self.location


def test_an_engine_that_its_file_does_not_describe(make_engine_file):
    file = make_engine_file(inputs=INPUTS[:1], outputs=(), output_map=[])
    engine_module._check_tensors(file, fake_flavour(None), FakeEngine())
    with pytest.raises(EngineError, match=r"the engine's tensors are {'x': 'float16'}, but its file describes .*int64"):
        engine_module._check_tensors(make_engine_file(), fake_flavour(None), FakeEngine())


def test_an_engine_with_a_tensor_on_the_host(make_engine_file):
    native = FakeEngine()
    native.location = 1
    with pytest.raises(EngineError, match="the engine has x in CPU memory"):
        engine_module._check_tensors(
            make_engine_file(inputs=INPUTS[:1], outputs=(), output_map=[]), fake_flavour(None), native
        )


def test_a_real_engine_without_a_gpu(make_engine_file, tmp_path):
    """Built for another target, saved and loaded; it stops only at the GPU that is not there."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    file = make_engine_file(**build("sm86"))
    file.save(tmp_path / "a.engine")
    loaded = type(file).load(tmp_path / "a.engine")
    assert loaded == file
    with pytest.raises(EngineError, match="there is no CUDA GPU here to run on"):
        Engine(loaded)


def test_the_trial_engine_builds():
    flavour = detect_or_skip()
    if not flavour.traits.builds_without_gpu and not torch.cuda.is_available():
        pytest.skip(f"{flavour.name} builds engines on a GPU alone")
    file = self_test.build(flavour, "sm86" if flavour.traits.builds_without_gpu else None)
    assert file.engine
    assert file.flavour == flavour.name


# On a GPU


@pytest.mark.gpu(engines=True)
def test_the_trial_engine_runs():
    self_test.run(self_test.build(detect_or_skip()))


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize(("batch", "length"), [(4, 3), (1, 5), (64, 1), (0, 3), (7, 0), (0, 0), (4, 3)])
def test_any_shape_of_the_profile(engine, batch, length):
    x, n = inputs(batch, length)
    outputs = engine(x, n)
    check(outputs, x, n)
    assert all(output.device == engine.device and output.is_contiguous() for output in outputs)


@pytest.mark.gpu(engines=True)
def test_inputs_need_not_be_contiguous_or_aligned(engine):
    x, n = inputs(64, 5)
    for strided in (x.t().contiguous().t(), x[::2], x[1:], x[:1].expand(9, 4), x.flip(0)):
        check(engine(strided, n), strided, n)
    check(engine(x, n[1:]), x, n[1:])


@pytest.mark.gpu(engines=True)
def test_copies_of_inputs_live_until_they_are_read(engine):
    """On a stream that is busy, the copy's memory must not go to the next tensor before the engine has read it."""
    x, n = inputs(64, 5)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        torch.cuda._sleep(20_000_000)
        outputs = engine(x.t().contiguous().t(), n)
        filler = [torch.full((64, 4), 7.0, device="cuda", dtype=torch.half) for _ in range(20)]
        torch.cuda.current_stream().synchronize()
    check(outputs, x, n)
    assert filler


@pytest.mark.gpu(engines=True)
def test_refused_inputs_leave_the_engine_usable(engine):
    x, n = inputs()
    with pytest.raises(EngineInputError, match="dimension 0 is 65, and the engine takes 0 to 64"):
        engine(torch.zeros(65, 4, dtype=torch.half, device="cuda"), n)
    with pytest.raises(EngineInputError, match="input n is on cpu; the engine runs on cuda:"):
        engine(x, n.cpu())
    check(engine(x, n), x, n)


@pytest.mark.gpu(engines=True)
def test_the_current_stream_orders_the_work(engine):
    """The input is written late on a side stream; only an engine on that stream sees it."""
    x, n = inputs(64)
    for stream in (torch.cuda.Stream(), torch.cuda.default_stream()):
        late = torch.zeros_like(x)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            late.copy_(x)
            outputs = [output.clone() for output in engine(late, n)]
        torch.cuda.synchronize()
        check(outputs, x, n)


@pytest.mark.gpu(engines=True)
def test_one_context_on_changing_streams(engine):
    streams = [torch.cuda.Stream() for _ in range(3)] + [torch.cuda.default_stream()]
    pairs = [inputs(1 + step, seed=step) for step in range(40)]
    torch.cuda.synchronize()
    results = []
    for step, pair in enumerate(pairs):
        with torch.cuda.stream(streams[step % len(streams)]):
            results.append(engine(*pair))
    torch.cuda.synchronize()
    for outputs, pair in zip(results, pairs, strict=True):
        check(outputs, *pair)


@pytest.mark.gpu(engines=True)
def test_two_contexts_on_two_streams(engine):
    contexts = [(engine.new_context(), torch.cuda.Stream()) for _ in range(2)]
    pairs = [inputs(8, seed=seed) for seed in range(2)]
    torch.cuda.synchronize()
    results = []
    for _ in range(20):
        for (context, stream), pair in zip(contexts, pairs, strict=True):
            with torch.cuda.stream(stream):
                results.append((context(*pair), pair))
    torch.cuda.synchronize()
    for outputs, pair in results:
        check(outputs, *pair)


@pytest.mark.gpu(engines=True)
def test_threads(engine):
    def work(seed):
        with torch.cuda.stream(torch.cuda.Stream()):
            for step in range(20):
                x, n = inputs(1 + (seed * 7 + step) % 64, 1 + step % 5, seed=seed)
                outputs = engine(x, n)
                torch.cuda.current_stream().synchronize()
                check(outputs, x, n)

    in_threads(work)


@pytest.mark.gpu(engines=True)
def test_a_cuda_graph_captures_and_replays(engine):
    context = engine.new_context()
    x, n = inputs(8)
    with torch.cuda.stream(torch.cuda.Stream()):
        context(x, n)
        torch.cuda.current_stream().synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = context(x, n)
    for seed in range(1, 4):
        for static, new in zip((x, n), inputs(8, seed=seed), strict=True):
            static.copy_(new)
        graph.replay()
        check(outputs, x, n)


@pytest.mark.gpu(engines=True)
def test_inspect(engine):
    layers = engine.inspect()
    assert layers
    assert all("Name" in layer for layer in layers)


@pytest.mark.gpu(engines=True)
def test_bytes_that_are_no_engine(make_engine_file):
    file = make_engine_file(**build() | {"engine": bytes(range(256)) * 4})
    with pytest.raises(EngineError, match=r"did not load the engine on .*\(sm\d+\)(.|\n)*TensorRT says:"):
        Engine(file)


@pytest.mark.gpu(engines=True)
def test_every_gpu(make_engine_file):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    file = make_engine_file(**build())
    for index in range(2):
        x, n = inputs(device=f"cuda:{index}")
        check(Engine(file, index)(x, n), x, n)
