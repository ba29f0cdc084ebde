"""What bridge.compile returns: the way from arguments to an engine, how often one is loaded, copies, settings."""

import copy
import io
import pickle
import threading

import pytest
import torch
from four_dtypes import INPUTS

import bridge
from bridge.engine import compiled as compiled_module
from bridge.engine.call_structure import CallStructure
from bridge.engine.compiled import CompiledModule
from bridge.engine_file.pytrees import of_spec
from bridge.tensorrt.run import engine as engine_module

pytree = torch.utils._pytree


class Small(torch.nn.Module):
    def forward(self, x):
        return torch.ops.bridge.relu(x * 2, 0.1)


def structure(args, kwargs, result, input_map=None, output_map=None):
    leaves, outputs = len(pytree.tree_leaves((args, kwargs))), len(pytree.tree_leaves(result))
    return CallStructure(
        of_spec(pytree.tree_structure((args, kwargs))),
        of_spec(pytree.tree_structure(result)),
        [f"a{index}" for index in range(len(args))] + list(kwargs),
        list(range(leaves)) if input_map is None else input_map,
        list(range(outputs)) if output_map is None else output_map,
    )


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
    assert made.is_flat_call(tensors, kwargs) is taken
    if taken:
        assert all(a is b for a, b in zip(made.flatten(tensors, kwargs), tensors, strict=True))


def test_arguments_that_are_no_tensors_are_flattened():
    assert not structure((1, 2), {}, 1).is_flat_call([torch.zeros(1), 3.0], {})
    assert not structure((1,), {}, 1).is_flat_call([[torch.zeros(1)]], {})


@pytest.mark.parametrize("result", [1, (1,), (1, 2), [1, 2], {"a": 1, "b": 2}, (1, {"a": 2}), [(1, 2)], {}, ()])
@pytest.mark.parametrize("shuffled", [False, True])
def test_results_keep_their_structure(result, shuffled):
    count = len(pytree.tree_leaves(result))
    order = list(range(count))[:: -1 if shuffled else 1]
    outputs = tuple(torch.full((), float(index)) for index in range(count))
    found = structure((1,), {}, result, output_map=order).unflatten((), outputs)
    assert pytree.tree_structure(found) == pytree.tree_structure(result)
    assert [leaf.item() for leaf in pytree.tree_leaves(found)] == order


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


# On a GPU


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
