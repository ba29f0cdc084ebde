"""Engines as CUDA graphs, into the same outputs, on callers' streams and within their captures; on a GPU."""

import gc
import threading

import pytest
import torch
from four_dtypes import captured, check, in_threads, inputs

from bridge.errors import EngineError, EngineInputError
from bridge.tensorrt.run import streams
from bridge.tensorrt.run.engine import Engine
from bridge.tensorrt.run.replay import GRAPHS


@pytest.fixture(params=[False, True], ids=["new", "static"])
def graphs(request, file):
    return Engine(file, cuda_graph=True, static_outputs=request.param)


@pytest.mark.gpu(engines=True)
def test_replays_at_changing_shapes(graphs):
    sizes = [(4, 3), (1, 5), (4, 3), (0, 3), (64, 1), (0, 0), (1, 5), (4, 3)]
    for seed, (batch, length) in enumerate(sizes):
        x, n = inputs(batch, length, seed=seed)
        check(graphs(x, n), x, n)
        check(graphs(x.flip(0), n), x.flip(0), n)


@pytest.mark.gpu(engines=True)
def test_more_shapes_than_graphs(file):
    engine = Engine(file, cuda_graph=True)
    for seed, batch in enumerate([*range(1, GRAPHS + 4), 1, 2, GRAPHS]):
        x, n = inputs(batch, seed=seed)
        check(engine(x, n), x, n)
    assert len(engine._local.run._graphs) == GRAPHS


@pytest.mark.gpu(engines=True)
def test_a_replay_launches_no_kernel_of_its_own(file):
    """The engine runs as one graph launch, and not again through TensorRT."""
    engine = Engine(file, cuda_graph=True, static_outputs=True)
    x, n = inputs(8)
    engine(x, n)
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as trace:
        engine(x, n)
        torch.cuda.synchronize()
    names = [event.key for event in trace.key_averages()]
    assert any("cudaGraphLaunch" in name for name in names), names


@pytest.mark.gpu(engines=True)
def test_results_outlive_later_calls_unless_outputs_are_static(file):
    (x, n), (y, m) = inputs(8), inputs(8, seed=1)
    for settings in ({}, {"cuda_graph": True}):
        engine = Engine(file, **settings)
        first = engine(x, n)
        engine(y, m)
        check(first, x, n)
    for settings in ({}, {"cuda_graph": True}):
        engine = Engine(file, static_outputs=True, **settings)
        first, second = engine(x, n), engine(y, m)
        assert all(a is b for a, b in zip(first, second, strict=True))
        check(first, y, m)


@pytest.mark.gpu(engines=True)
def test_static_outputs_are_of_the_shape_asked_for(file):
    engine = Engine(file, static_outputs=True)
    for batch in (4, 9, 4, 0, 1):
        x, n = inputs(batch)
        check(engine(x, n), x, n)


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("settings", [{}, {"cuda_graph": True}, {"cuda_graph": True, "static_outputs": True}])
def test_threads_on_streams_of_their_own(file, settings):
    engine = Engine(file, **settings)

    def work(seed):
        with torch.cuda.stream(torch.cuda.Stream() if seed % 2 else torch.cuda.default_stream()):
            for step in range(12):
                x, n = inputs(1 + (seed + step % 3), 1 + step % 3, seed=seed)
                outputs = [output.clone() for output in engine(x, n)]
                torch.cuda.current_stream().synchronize()
                check(outputs, x, n)

    in_threads(work)


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("settings", [{}, {"cuda_graph": True}, {"static_outputs": True}])
def test_order_with_the_current_stream(file, settings):
    """The inputs are written late and the outputs read early, on the default stream and on others in turn."""
    engine = Engine(file, **settings)
    x, n = inputs(64)
    late = torch.zeros_like(x)
    engine(late, n)
    torch.cuda.synchronize()
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.default_stream(), torch.cuda.Stream()):
        late.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            late.copy_(x)
            outputs = [output.clone() for output in engine(late, n)]
            late.zero_()
        torch.cuda.synchronize()
        check(outputs, x, n)


@pytest.mark.gpu(engines=True)
def test_a_callers_own_capture_takes_the_engine_in(file):
    """Also when the scratch memory has grown and the allocator gave it to others since."""
    engine = Engine(file)
    x, n = inputs(8)
    graph, outputs = captured(engine, x, n)
    engine(*inputs(64, 5))
    filler = [torch.full((1 << 16,), 7.0, device="cuda") for _ in range(8)]
    for seed in range(1, 4):
        for static, new in zip((x, n), inputs(8, seed=seed), strict=True):
            static.copy_(new)
        graph.replay()
        check(outputs, x, n)
    assert filler


@pytest.mark.gpu(engines=True)
def test_graphs_within_a_callers_capture_are_refused(file):
    engine = Engine(file, cuda_graph=True)
    x, n = inputs(8)
    check(engine(x, n), x, n)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), pytest.raises(EngineError, match="with cuda_graph=False for that"):
        engine(x, n)
    check(engine(x, n), x, n)


@pytest.mark.gpu(engines=True)
def test_a_refused_call_leaves_graphs_usable(file):
    engine = Engine(file, cuda_graph=True)
    x, n = inputs()
    check(engine(x, n), x, n)
    with pytest.raises(EngineInputError, match="dimension 0 is 65"):
        engine(torch.zeros(65, 4, dtype=torch.half, device="cuda"), n)
    check(engine(x, n), x, n)


@pytest.mark.gpu(engines=True)
def test_tensors_without_memory_are_refused(file):
    from torch._subclasses.fake_tensor import FakeTensorMode

    engine = Engine(file)
    x, n = inputs()
    engine(x, n)
    with FakeTensorMode() as mode, pytest.raises((EngineInputError, RuntimeError)):
        engine(mode.from_tensor(x), mode.from_tensor(n))
    check(engine(x, n), x, n)


@pytest.mark.gpu(engines=True)
def test_engines_give_their_memory_back(file):
    x, n = inputs(8)
    engine = Engine(file, cuda_graph=True)
    engine(x, n)
    torch.cuda.synchronize()
    del engine
    gc.collect()
    before = torch.cuda.memory_allocated()
    for settings in ({}, {"cuda_graph": True}, {"static_outputs": True}):
        engine = Engine(file, **settings)
        engine(x, n)
        torch.cuda.synchronize()
        del engine
        gc.collect()
        assert torch.cuda.memory_allocated() == before


@pytest.mark.gpu
def test_streams_for_captures_are_no_one_elses(device):
    own = [streams.CaptureStream(device) for _ in range(40)]
    torchs = {torch.cuda.Stream(device).cuda_stream for _ in range(200)}
    handles = {each.stream.cuda_stream for each in own}
    assert len(handles) == 40 and not handles & torchs
    with torch.cuda.stream(own[0].stream):
        x = torch.ones(1000, device=device) * 2
    own[0].stream.synchronize()
    assert torch.equal(x.cpu(), torch.full((1000,), 2.0))


@pytest.mark.gpu(engines=True)
def test_threads_that_capture_and_threads_that_run_do_not_mix(file):
    """More graphs than torch has streams, while other threads work on all of those."""
    busy, stop = [torch.cuda.Stream() for _ in range(32)], threading.Event()
    noise = torch.zeros(1 << 16, device="cuda")

    def disturb():
        while not stop.is_set():
            for stream in busy:
                with torch.cuda.stream(stream):
                    noise.add_(1.0)
            busy[0].synchronize()  # not the device: CUDA ends captures of other threads for that

    def capture(seed):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):
                engine = Engine(file, cuda_graph=True)
                for batch in range(1, 5):
                    args = inputs(batch, seed=seed)
                    check(engine(*args), *args)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        in_threads(capture)
    finally:
        stop.set()
        other.join()
