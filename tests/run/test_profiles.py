"""An engine with dynamic shapes has a second profile, of the tuned shapes, and calls with these take it."""

import types
from unittest import mock

import pytest
import torch
from four_dtypes import in_threads
from torch.export import Dim

import bridge
from bridge.errors import EngineError
from bridge.tensorrt.network import build
from bridge.tensorrt.run import context as context_module
from bridge.tensorrt.run.context import Context
from bridge.tensorrt.run.engine import Engine, _tuned_shapes

pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
SHAPES = ({0: Dim("batch", min=1, max=9), 2: Dim("width", min=3, max=40)},)


class Convolved(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x):
        return bridge.relu(self.conv(x), 0.1) + x.shape[0]


def x(batch=4, width=10, device="cpu"):
    return torch.randn(batch, 8, width, 12, device=device)


def profiles_of(*shapes, **settings):
    """What the build is asked for: [min, tuned, max] of the input, of each profile."""
    found, real = [], build._builder_config

    class Recorder:
        def __init__(self, config):
            object.__setattr__(self, "config", config)

        def __getattr__(self, name):
            return getattr(self.config, name)

        def __setattr__(self, name, value):
            setattr(self.config, name, value)

        def add_optimization_profile(self, profile):
            found.append([tuple(shape) for shape in profile.get_shape("x")])

    def network(*args):
        return b"engine"

    def recorded(*args):
        return Recorder(real(*args))

    with (
        mock.patch.object(build, "_builder_config", recorded),
        mock.patch.object(build, "_interruptible", network),
    ):
        bridge.compile(
            Convolved().eval(), (x(),), dynamic_shapes=shapes or None, target="sm86", cache=False, **settings
        )
    return found


def test_the_second_profile_has_the_examples_shapes():
    whole, *rest = profiles_of(*SHAPES)
    assert whole == [(1, 8, 3, 12), (4, 8, 10, 12), (9, 8, 40, 12)]
    assert rest == [[(4, 8, 10, 12)] * 3]


def test_it_can_be_left_out_and_fixed_shapes_need_none():
    assert len(profiles_of(*SHAPES, tuned_profile=False)) == 1
    assert profiles_of() == []


def test_an_engine_of_it_is_another_one_in_the_cache():
    engines = [
        bridge.compile(Convolved().eval(), (x(),), dynamic_shapes=SHAPES, target="sm86", tuned_profile=each)
        for each in (True, False)
    ]
    assert len(engines[0].file.engine) > len(engines[1].file.engine)


def test_shapes_of_the_second_profile():
    spec = types.SimpleNamespace(name="x")
    native = types.SimpleNamespace(num_optimization_profiles=1)
    assert _tuned_shapes(types.SimpleNamespace(inputs=[spec]), native) is None
    native = types.SimpleNamespace(
        num_optimization_profiles=2, get_tensor_profile_shape=lambda name, profile: [(1, 1), (profile, 7), (9, 9)]
    )
    assert _tuned_shapes(types.SimpleNamespace(inputs=[spec] * 2), native) == (torch.Size([1, 7]),) * 2


@pytest.fixture
def context(monkeypatch):
    """A context whose engine has a profile for one shape."""
    monkeypatch.setattr(context_module.streams, "for_engines", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    made = Context.__new__(Context)
    made._names, made._device, made._addresses = ["x", "y"], torch.device("cpu"), [1, 2]
    made._engine = types.SimpleNamespace(flavour=None)
    made.asked = []

    def choose(profile, stream):
        made.asked.append((profile, stream))
        made.native.active_optimization_profile = profile
        return profile < 2

    made.native = types.SimpleNamespace(active_optimization_profile=0, set_optimization_profile_async=choose)
    monkeypatch.setattr(Context, "_tensorrt_errors", lambda self: "")
    return made


def test_a_context_changes_its_profile_only_where_it_must(context):
    context._choose_profile(0)
    assert context.asked == [] and context._addresses == [1, 2]
    context._choose_profile(1)
    assert context.asked == [(1, 5)] and context._addresses == [0, 0]
    context._choose_profile(0)
    assert context.asked == [(1, 5), (0, 5)]
    with pytest.raises(EngineError, match="does not take its profile 2"):
        context._choose_profile(2)


def test_a_capture_stays_with_the_profile_of_all_shapes(context, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    context._choose_profile(1)
    assert context.asked == []


# On a GPU


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_every_shape_is_right_in_any_order(cuda_graph, device):
    model = Convolved().eval().to(device)
    engine = Engine(bridge.compile(model, (x(device=device),), dynamic_shapes=SHAPES).file, cuda_graph=cuda_graph)
    for batch, width in ((4, 10), (1, 3), (4, 10), (9, 40), (4, 11), (4, 10), (4, 10)):
        given = x(batch, width, device)
        torch.testing.assert_close(engine(given)[0], model(given), rtol=2e-3, atol=2e-3)


@pytest.mark.gpu(engines=True)
def test_a_context_takes_the_profile_of_its_shapes(device):
    model = Convolved().eval().to(device)
    engine = Engine(bridge.compile(model, (x(device=device),), dynamic_shapes=SHAPES).file)
    context = engine.new_context()
    for batch, profile in ((4, 1), (3, 0), (4, 1)):
        given = x(batch, device=device)
        torch.testing.assert_close(context(given)[0], model(given), rtol=2e-3, atol=2e-3)
        assert context.native.active_optimization_profile == profile


@pytest.mark.gpu(engines=True)
def test_threads_with_several_profiles(device):
    model = Convolved().eval().to(device)
    engine = Engine(bridge.compile(model, (x(device=device),), dynamic_shapes=SHAPES).file)

    def work(number):
        with torch.cuda.stream(torch.cuda.Stream()):
            for batch in (4, 1 + number % 9, 4):
                given = x(batch, device=device)
                torch.testing.assert_close(engine(given)[0], model(given), rtol=2e-3, atol=2e-3)

    in_threads(work, 4)
