"""How engines are called: cheaply, from any thread and GPU, as CUDA graphs, into the same outputs; what is refused."""

import copy
import gc
import io
import pickle
import threading
import types

import pytest
import torch
from test_engine import INPUTS, build, check, expected, in_threads, inputs

import bridge
from bridge.engine import compiled as compiled_module
from bridge.engine.call_structure import Structure
from bridge.engine.compiled import CompiledModule
from bridge.engine_file.pytrees import of_spec
from bridge.errors import EngineError, EngineInputError
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.run import engine as engine_module
from bridge.tensorrt.run import streams
from bridge.tensorrt.run.contexts import Contexts
from bridge.tensorrt.run.engine import Engine
from bridge.tensorrt.run.input_check import InputCheck
from bridge.tensorrt.run.replay import GRAPHS

pytree = torch.utils._pytree


class Small(torch.nn.Module):
    def forward(self, x):
        return torch.ops.bridge.relu(x * 2, 0.1)


def structure(args, kwargs, result, input_map=None, output_map=None):
    leaves, outputs = len(pytree.tree_leaves((args, kwargs))), len(pytree.tree_leaves(result))
    return Structure(
        of_spec(pytree.tree_structure((args, kwargs))),
        of_spec(pytree.tree_structure(result)),
        [f"a{index}" for index in range(len(args))] + list(kwargs),
        list(range(leaves)) if input_map is None else input_map,
        list(range(outputs)) if output_map is None else output_map,
    )


# The way from arguments to an engine


@pytest.mark.parametrize(
    ("made", "args", "kwargs", "taken"),
    [
        (structure((1, 2), {}, 1), 2, {}, True),
        (structure((1, 2), {}, 1), 1, {}, False),  # one is missing: the long way says so
        (structure((1, [2]), {}, 1), 2, {}, False),
        (structure((1,), {"k": 2}, 1), 2, {}, True),  # as Python has it for forward(x, k)
        (structure((1,), {"k": 2}, 1), 1, {"k": 0}, False),
        (structure((1, 2), {}, 1, input_map=[1, 0]), 2, {}, False),
        (structure((1, 2), {}, 1, input_map=[0, {"literal": 3}]), 2, {}, False),
        (structure((1, 2), {}, 1, input_map=[0, {"unused": True}]), 2, {}, False),
        (structure((), {}, 1), 0, {}, True),
    ],
)
def test_arguments_that_need_no_flattening(made, args, kwargs, taken):
    tensors = [torch.zeros(1) for _ in range(args)]
    assert made.takes(tensors, kwargs) is taken
    if taken:
        assert all(a is b for a, b in zip(made.flatten(tensors, kwargs), tensors, strict=True))


def test_arguments_that_are_no_tensors_are_flattened():
    assert not structure((1, 2), {}, 1).takes([torch.zeros(1), 3.0], {})
    assert not structure((1,), {}, 1).takes([[torch.zeros(1)]], {})


@pytest.mark.parametrize("result", [1, (1,), (1, 2), [1, 2], {"a": 1, "b": 2}, (1, {"a": 2}), [(1, 2)], {}, ()])
@pytest.mark.parametrize("shuffled", [False, True])
def test_results_keep_their_structure(result, shuffled):
    count = len(pytree.tree_leaves(result))
    order = list(range(count))[:: -1 if shuffled else 1]
    outputs = tuple(torch.full((), float(index)) for index in range(count))
    found = structure((1,), {}, result, output_map=order).unflatten((), outputs)
    assert pytree.tree_structure(found) == pytree.tree_structure(result)
    assert [leaf.item() for leaf in pytree.tree_leaves(found)] == order


def test_inputs_like_the_last_ones_are_not_checked_again(monkeypatch):
    checked = []
    monkeypatch.setattr(InputCheck, "_check_all", lambda self, t: checked.append(t) or tuple(x.shape for x in t))
    checks = InputCheck(INPUTS, torch.device("cpu"))
    first = checks.check(inputs(4, 3, "cpu"))
    assert checks.check(inputs(4, 3, "cpu", seed=1)) is first and len(checked) == 1
    assert checks.check(inputs(5, 3, "cpu")) == ((5, 4), (3,)) and len(checked) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda x, n: (x.float(), n),
        lambda x, n: (x, n.to("meta")),
        lambda x, n: (x.to_sparse(), n),
        lambda x, n: (x, n, n),
        lambda x, n: (x.numpy(), n),
        lambda x, n: (x.repeat(17, 1), n),
    ],
)
def test_inputs_unlike_the_last_ones_are_refused_each_time(change):
    checks = InputCheck(INPUTS, torch.device("cpu"))
    right = inputs(4, 3, "cpu")
    for _ in range(2):
        shapes = checks.check(right)
        with pytest.raises(EngineInputError):
            checks.check(change(*right))
        assert checks.check(right) == shapes


# What bridge.compile returns


@pytest.fixture
def made(monkeypatch):
    """The engines that modules load: each returns its inputs."""
    engines = []

    class FakeEngine:
        def __init__(self, file, device, **settings):
            self.device, self.settings = device, settings
            engines.append(self)

        def __call__(self, *tensors):
            return tuple(tensors)

    monkeypatch.setattr(engine_module, "Engine", FakeEngine)
    return engines


def identity(make_engine_file, **settings):
    spec = of_spec(pytree.tree_structure(((1,), {})))
    file = make_engine_file(
        inputs=INPUTS[:1],
        in_spec=spec,
        out_spec=of_spec(pytree.tree_structure(1)),
        output_map=[0],
        metadata={"arguments": ["x"], "input_map": [0]},
    )
    return CompiledModule(file, **settings)


def test_an_engine_is_loaded_once_for_each_gpu_with_the_settings(make_engine_file, made, monkeypatch):
    module = identity(make_engine_file, cuda_graph=True, static_outputs=True)
    place = 0
    monkeypatch.setattr(compiled_module, "_device", lambda values: place)
    x = torch.zeros(1)
    assert module(x) is x and module(x) is x and len(made) == 1
    place = 1
    module(x)
    assert [engine.device for engine in made] == [0, 1]
    assert made[0].settings == {"cuda_graph": True, "static_outputs": True}


def test_threads_that_call_first_load_one_engine(make_engine_file, made):
    module = identity(make_engine_file)
    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=lambda: (barrier.wait(), module(torch.zeros(1)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


@pytest.mark.parametrize("write", [pickle.dumps, lambda value: torch.save({"model": value}, io.BytesIO())])
def test_pickling_names_the_way_that_works(make_engine_file, write):
    with pytest.raises(TypeError, match=r"compiled\.save\(path\) and read it with bridge\.load\(path\)"):
        write(identity(make_engine_file))


def test_copies_share_the_file_and_keep_the_settings(make_engine_file):
    module = identity(make_engine_file, from_cache=True, cuda_graph=True)
    for other in (copy.deepcopy(module), copy.deepcopy([module])[0]):
        assert other is not module and other.file is module.file
        assert (other.from_cache, other.cuda_graph, other.static_outputs) == (True, True, False)


def test_loading_takes_the_settings(make_engine_file, tmp_path):
    identity(make_engine_file).save(tmp_path / "a.engine")
    module = bridge.load(tmp_path / "a.engine", cuda_graph=True, static_outputs=True)
    assert module.cuda_graph and module.static_outputs and not module.from_cache
    with pytest.raises(TypeError):
        bridge.load(tmp_path / "a.engine", cuda_graphs=True)


def test_compiling_takes_the_settings():
    module = bridge.compile(Small().eval(), (torch.randn(2, 4),), target="sm86", cuda_graph=True, static_outputs=True)
    assert module.cuda_graph and module.static_outputs and not module.from_cache


# Execution contexts


class FakeNative:
    """TensorRT's engine: it notes how contexts are asked for."""

    def __init__(self, context="a context"):
        self.asked, self.caches, self.context = [], 0, context

    def create_runtime_config(self):
        def create_runtime_cache():
            self.caches += 1
            return f"cache {self.caches}"

        config = types.SimpleNamespace(create_runtime_cache=create_runtime_cache, kernels=None)
        config.set_runtime_cache = lambda cache: setattr(config, "kernels", cache)
        config.set_execution_context_allocation_strategy = lambda memory: setattr(config, "memory", memory)
        return config

    def create_execution_context(self, how):
        self.asked.append(how)
        return self.context


def fake_flavour(name):
    module = types.SimpleNamespace(
        ExecutionContextAllocationStrategy=types.SimpleNamespace(USER_MANAGED="ours"),
        DynamicShapesKernelSpecializationStrategy=types.SimpleNamespace(EAGER="eager"),
    )

    class Fake(Flavour):
        def trt(self):
            return module

    return Fake(name, "1.7.1.116", None)


def test_contexts_on_rtx_share_the_kernels_that_it_compiles():
    native = FakeNative()
    contexts = Contexts(fake_flavour("tensorrt_rtx"), native)
    for for_capture in (False, True, False):
        assert contexts.make(for_capture) == "a context"
    assert [(config.kernels, config.memory) for config in native.asked] == [("cache 1", "ours")] * 3
    assert [getattr(c, "dynamic_shapes_kernel_specialization_strategy", None) for c in native.asked] == [
        None,
        "eager",
        None,
    ]


def test_contexts_of_standard_tensorrt():
    native = FakeNative()
    Contexts(fake_flavour("tensorrt"), native).make()
    assert native.asked == ["ours"]


def test_no_context(monkeypatch):
    monkeypatch.setattr("bridge.tensorrt.run.contexts.describe_errors", lambda flavour: "\nTensorRT says:\n  no memory")
    with pytest.raises(EngineError, match="made no execution context\nTensorRT says:\n  no memory"):
        Contexts(fake_flavour("tensorrt"), FakeNative(context=None)).make()


# On a GPU


@pytest.fixture(scope="module")
def file(make_engine_file):
    return make_engine_file(**build())


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
    with torch.cuda.stream(torch.cuda.Stream()):
        engine(x, n)
        torch.cuda.current_stream().synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = engine(x, n)
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


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("settings", [{}, {"cuda_graph": True}])
def test_a_compiled_module_with_a_plugin(settings):
    model = Small().cuda().eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    x = torch.randn(2, 4, device="cuda")
    module = bridge.compile(model, (x,), dynamic_shapes={"x": {0: batch}}, **settings)
    for size in (2, 8, 1, 2):
        x = torch.randn(size, 4, device="cuda")
        torch.testing.assert_close(module(x), model(x), rtol=5e-3, atol=5e-3)


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


@pytest.mark.gpu
def test_streams_for_captures_are_no_one_elses(device):
    own = [streams.Own(device) for _ in range(40)]
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
