"""What tests share: the skip of gpu tests, and an engine file that no GPU was needed for."""

import copy
import functools
import gc
import random
import signal
import sys

import pytest
import quick_torch
import torch
from oracle import interpreted
from run_folder import folder_of_run, share_host_objects
from torch.utils._pytree import tree_structure

from bridge.cli import self_test
from bridge.doors import backend, partition
from bridge.engine_file import pytrees
from bridge.engine_file.contents import EngineFile, OutputSpec, TensorSpec
from bridge.errors import EngineError, FlavourError, TargetError
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.run.input_check import InputCheck

# A shell's background job ignores Ctrl-C, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

quick_torch.install()
gc.set_threshold(100_000, 20, 100)  # traces allocate so much that Python's defaults cost a tenth of the time


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    """No test takes an engine that another one built, or leaves one behind."""
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def host_objects(tmp_path_factory):
    """The folder with bridge's own sources of generated libraries, compiled once in a run."""
    folder = folder_of_run(tmp_path_factory) / "host objects"
    with pytest.MonkeyPatch.context() as patch:
        share_host_objects(patch, folder)
        yield folder


@pytest.fixture
def fresh_dynamo():
    """The test begins with nothing traced, and needs no gradients."""
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def pytest_collection_modifyitems(items):
    for item in items:
        mark = item.get_closest_marker("gpu")
        reason = mark and (no_engines() if mark.kwargs.get("engines") else no_gpu())
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    keep_out_of_collections(len(sys.modules) // 100)


def pytest_runtest_teardown():
    keep_out_of_collections(len(sys.modules) // 100)


@functools.cache
def keep_out_of_collections(hundreds_of_modules):
    """Once for every hundred modules: a garbage collection that reads all of torch again took a fifth of the time."""
    gc.collect()
    gc.freeze()


def no_gpu() -> str | None:
    """Why tests marked gpu cannot run here, or None."""
    return None if torch.cuda.is_available() else "needs a CUDA GPU"


@functools.cache
def no_engines() -> str | None:
    """Why tests marked gpu(engines=True) cannot run here, or None; of failures only that TensorRT refuses this GPU."""
    if no_gpu():
        return no_gpu()
    try:
        flavour = detect()
        self_test.run(self_test.build(flavour))
    except (EngineError, TargetError) as error:
        if "compute capability" in str(error):
            return f"{flavour.name} {flavour.version} runs no engine on {torch.cuda.get_device_name()}: {error}"
    except FlavourError as error:
        return str(error)
    return None


@pytest.fixture
def device():
    """The current CUDA GPU; a test that takes it is marked gpu."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def evaluated():
    """Both doors evaluate their network on the CPU instead of building an engine; torch.compile has traced nothing."""
    torch._dynamo.reset()
    with interpreted():
        yield
    torch._dynamo.reset()


@pytest.fixture
def on_cpu(monkeypatch):
    """torch.compile(backend="bridge") builds engines and checks their inputs, but PyTorch computes their results."""
    programs = {}

    def store_measurements(compile_something):
        def wrapper(program, *args):
            built = compile_something(program, *args)
            programs[id(built.file)] = program
            return built

        return wrapper

    class Stand:
        def __init__(self, file, **settings):
            program = programs[id(file)]
            self.file = file
            self.check = InputCheck(file.inputs, torch.device("cpu"))
            self.run = program.module(check_guards=False) if hasattr(program, "module") else copy.deepcopy(program)

        def __call__(self, *inputs):
            self.check.check(inputs)
            return tuple(self.run(*inputs))

    monkeypatch.setattr(backend, "compile_program", store_measurements(backend.compile_program))
    monkeypatch.setattr(partition, "compile_module", store_measurements(partition.compile_module))
    monkeypatch.setattr(backend, "CompiledModule", Stand)
    monkeypatch.setattr(partition, "CompiledModule", Stand)


# One of everything; the engine is random bytes, which no TensorRT takes.
ENGINE_FILE = {
    "engine": random.Random(0).randbytes(1000),
    "flavour": "tensorrt_rtx",
    "tensorrt_version": "1.7.1.116",
    "target": "sm86",
    "plugins": {"relu": "1"},
    "inputs": (
        TensorSpec("x", "float16", (1, 3, 0), (4, 3, 8), (16, 3, 64)),
        TensorSpec("n", "int64", (), (), ()),
    ),
    "outputs": (OutputSpec("y", "bfloat16", (-1, 3, -1)),),
    "layers": [
        {
            "name": "relu_1",
            "type": "PLUGIN_V3",
            "op": "relu",
            "attributes": {"negative_slope": 0.1, "max_value": float("inf"), "tensors": "x"},
            "inputs": ["x"],
            "outputs": [{"name": "relu_1_out", "dtype": "float16", "shape": [-1, 3, -1]}],
        },
        {
            "name": "cast_2",
            "type": "CAST",
            "op": None,
            "attributes": {},
            "inputs": ["relu_1_out"],
            "outputs": [{"name": "y", "dtype": "bfloat16", "shape": [-1, 3, -1]}],
        },
    ],
    "in_spec": pytrees.Tree(),
    "output_map": [0, {"literal": None}, {"literal": 1.5}, {"input": 1}],
    "metadata": {
        "bridge": "0.1.0",
        "torch": "2.11.0",
        "model": "Größe",
        "build_seconds": 1.25,
        "parameters": 7,
    },
}


@pytest.fixture(scope="session")
def make_engine_file():
    """EngineFile(**changes) with what ENGINE_FILE has for the rest."""

    def make(**changes):
        values = copy.deepcopy(ENGINE_FILE) | changes
        values.setdefault("out_spec", pytrees.of_spec(tree_structure([0] * len(values["output_map"]))))
        return EngineFile(**values)

    return make
