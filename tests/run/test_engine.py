"""Engines on a GPU: they compute what TensorRT's layers say, on any stream and from any thread."""

import pytest
import torch
from four_dtypes import build, captured, check, detect_or_skip, expected, in_threads, inputs
from torch.export import Dim

import bridge
from bridge.cli import self_test
from bridge.errors import EngineInputError
from bridge.tensorrt.run.engine import Engine


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
def test_first_runs_in_several_threads_at_once():
    """TensorRT-RTX compiles an engine's own kernels in them, which it did not survive in two threads."""
    layers = [layer for _ in range(6) for layer in (torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.GELU())]
    model, x = torch.nn.Sequential(*layers).cuda().half().eval(), torch.randn(2, 16, 24, 24).cuda().half()
    shared = Engine(bridge.compile(model, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=16)},), cache=False).file)
    with torch.no_grad():
        reference = model(x)

    def work(seed):
        with torch.cuda.stream(torch.cuda.Stream()):
            for batch in range(1, 9):
                (result,) = shared(x[:1].expand(batch, -1, -1, -1))
                torch.cuda.current_stream().synchronize()
                torch.testing.assert_close(result, reference[:1].expand_as(result), rtol=1e-2, atol=1e-2)

    in_threads(work)


@pytest.mark.gpu(engines=True)
def test_a_cuda_graph_captures_and_replays(engine):
    context = engine.new_context()
    x, n = inputs(8)
    graph, outputs = captured(context, x, n)
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
def test_every_gpu(make_engine_file):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    file = make_engine_file(**build())
    for index in range(2):
        x, n = inputs(device=f"cuda:{index}")
        check(Engine(file, index)(x, n), x, n)


@pytest.mark.gpu(engines=True)
def test_a_module_runs_where_its_inputs_are(file):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    engines = [Engine(file, index) for index in range(2)]
    for index in (1, 0, 1):
        x, n = inputs(device=f"cuda:{index}")
        for wanted, output in zip(expected(x, n), engines[index](x, n), strict=True):
            assert output.device == x.device
            torch.testing.assert_close(output, wanted)
