"""bridge.tune: both lowerings are built, measured, and the faster is remembered."""

import logging

import pytest
import torch
from compile_models import Convolutional, Deformable
from lowering_models import needs_torch_tensorrt

import bridge
from bridge import errors
from bridge.doors.lowerings import tuner
from bridge.engine.timing import Timing

pytestmark = needs_torch_tensorrt


def test_tuning_without_a_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(errors.EngineError, match="no CUDA GPU here to measure on"):
        bridge.tune(Convolutional().eval(), Convolutional.example(torch.float32)[0])


class FakeEngine:
    """An engine that was built, and gives the next of `results` where it is called."""

    results = ()

    def __init__(self, file):
        self.file = file

    def __call__(self):
        result, *FakeEngine.results = FakeEngine.results
        return result


@pytest.fixture
def compared(monkeypatch):
    """Without a GPU engines are built, and their times made up. Gives the plugins of each two that are compared."""
    plugins = []

    def compare(engines, inputs):
        plugins.append([engine.file.plugins for engine in engines])
        return [Timing(us, us, us, 0.1) for us in (20.0, 10.0 if len(plugins) == 1 else 19.9)]

    monkeypatch.setattr(tuner, "_check_gpu", lambda: None)
    monkeypatch.setattr(tuner, "_check_target", lambda target: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10")  # of a target that is not here
    monkeypatch.setattr(tuner, "example_inputs", lambda *rest: [])
    monkeypatch.setattr(tuner, "Engine", FakeEngine)
    monkeypatch.setattr(tuner, "compare", compare)
    return plugins


def test_tuning_builds_both_and_remembers_the_faster(compared, caplog):
    args, dynamic_shapes = Convolutional.example(torch.float16)
    FakeEngine.results = (torch.ones(2),) * 4
    model = Convolutional().eval().half()
    tuning = bridge.tune(model, args, dynamic_shapes=dynamic_shapes, target="sm86")
    assert [(item.lowering, item.tie) for item in tuning.measurements] == [("native", False), ("plugin", True)]
    assert compared == [[{"relu": "1"}, {"relu": "1"}]] * 2  # one of two calls is native in the second engine
    assert "20.0    10.0    native" in str(tuning) and "plugin (tie)" in str(tuning)
    engine = bridge.compile(model, args, dynamic_shapes=dynamic_shapes, target="sm86")
    assert [row["lowering"] for row in bridge.report(engine).lowerings] == ["native", "plugin"]
    compared.clear()
    FakeEngine.results = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), torch.ones(2), torch.ones(2)
    with caplog.at_level(logging.WARNING, "bridge"):
        tuning = bridge.tune(model, args, dynamic_shapes=dynamic_shapes, target="sm86")
    assert [item.lowering for item in tuning.measurements] == ["plugin", "plugin"]
    assert "plugin (results differ)" in str(tuning) and "other results, by 0.33 of the largest value" in caplog.text
    left = bridge.tune(model, args, dynamic_shapes=dynamic_shapes, target="sm86", lowering="plugin")
    assert not left.measurements and set(left.left_out.values()) == {'the setting requests "plugin"'}


@pytest.mark.gpu(engines=True)
def test_tuning_measures_on_this_gpu(device):
    args, dynamic_shapes = Deformable.example(torch.float16)
    model = Deformable().eval().half()
    tuning = bridge.tune(model, args, dynamic_shapes=dynamic_shapes)
    assert len(tuning.measurements) == 2
    for item in tuning.measurements:
        assert 1 < item.plugin_us < 1e5 and 1 < item.native_us < 1e5 and item.gpu == torch.cuda.get_device_name()
    engine = bridge.compile(model, args, dynamic_shapes=dynamic_shapes)
    assert all(row["why"].startswith("measured ") for row in bridge.report(engine).lowerings)
    x = args[0].to(device)
    torch.testing.assert_close(engine(x), model.to(device)(x), rtol=2e-2, atol=2e-2)
