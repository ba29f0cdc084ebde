"""bridge.tune chooses configurations of autotuned kernels; without a GPU the engines are built, and times made up."""

import dataclasses
import json
import logging

import pytest
import torch
from torch import nn
from torch.export import Dim

import bridge
from bridge.config import Config
from bridge.doors.generation import marked_instances
from bridge.doors.lowerings import configuration_tuner, measured_configurations, tuner
from bridge.doors.session import Session
from bridge.engine.timing import Timing
from bridge.errors import BuildError
from bridge.generate import folders, graphs, shipping
from bridge.generate.configurations import configuration_text
from bridge.tensorrt.install import flavour

ROWS = Dim("rows", min=1, max=64)


@torch.library.custom_op("tune_test::centred", mutates_args=())
def centred(x: torch.Tensor) -> torch.Tensor:
    """Plain torch: Inductor has several configurations for a reduction."""
    return x - x.mean(-1, keepdim=True)


@centred.register_fake
def _(x):
    return torch.empty_like(x)


class Centred(nn.Module):
    def forward(self, x):
        return centred(x * 2) + 1


X = torch.linspace(-1, 1, 6 * 3000).view(6, 3000)


def compiled(**settings):
    return bridge.compile(Centred().eval(), (X,), dynamic_shapes=({0: ROWS},), target="sm86", cache=False, **settings)


def tuned(**settings):
    return bridge.tune(Centred().eval(), (X,), dynamic_shapes=({0: ROWS},), target="sm86", **settings)


class FakeEngine:
    """An engine that was built; what it computes is made up."""

    results = staticmethod(lambda number: torch.ones(3))
    made = 0

    def __init__(self, file):
        self.file, self.number = file, FakeEngine.made
        FakeEngine.made += 1

    def __call__(self, *inputs):
        return FakeEngine.results(self.number)


@pytest.fixture
def times(monkeypatch):
    """Microseconds by configuration."""
    given = [20.0, 9.0, 10.0, *range(11, 16)]

    def compare(engines, tensors):
        return [Timing(us, us, us, 0.1) for us in given[: len(engines)]]

    FakeEngine.made = 0
    monkeypatch.setattr(FakeEngine, "results", staticmethod(lambda number: torch.ones(3)))
    monkeypatch.setattr(tuner, "_check_gpu", lambda: None)
    monkeypatch.setattr(tuner, "_check_target", lambda target: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10")
    monkeypatch.setattr(tuner, "example_inputs", lambda compiled, model, args, kwargs: list(args))
    monkeypatch.setattr(configuration_tuner, "Engine", FakeEngine)
    monkeypatch.setattr(configuration_tuner, "compare", compare)
    yield given
    measured_configurations.FILE.path_of(Config()).unlink(missing_ok=True)


def configurations(compiled):
    """Of the first kernel of the first generated plugin."""
    (row,) = compiled.file.metadata["generated"]
    return row["kernels"][0]["configurations"]


def test_the_fastest_configuration_is_the_only_one_of_later_compilations(times):
    (first,) = configurations(compiled())  # TensorRT-RTX measures none: one alone is compiled
    tuning = tuned()
    (item,) = tuning.configurations
    assert (item.index, item.us, item.first_us, item.gpu) == (1, 9.0, 20.0, "NVIDIA A10")
    assert item.measured_count == item.count > 3 and item.kind.startswith("tune_test::centred(float32[8, 4096])")
    assert "20.0   9.0" in str(tuning) and f"number 2 of {item.count}" in str(tuning)
    after = compiled()
    (chosen,) = configurations(after)
    assert chosen != first and sorted(chosen.split(", ")) == sorted(item.text.split(", "))
    other = bridge.compile(Centred().eval(), (X[:, :300],), target="sm86", cache=False)  # of another kind
    assert len(configurations(other)) == 1


def test_the_plugin_is_timed_on_what_the_model_gives_it(times, monkeypatch):
    given = []

    def compare(engines, tensors):
        given.extend(tensors)
        return [Timing(us, us, us, 0.1) for us in times[: len(engines)]]

    monkeypatch.setattr(configuration_tuner, "compare", compare)
    tuned()
    (tensor,) = given
    torch.testing.assert_close(tensor, X * 2)


def test_a_difference_within_the_noise_keeps_the_first(times):
    times[:] = [9.1, 9.0, *times[2:]]
    (item,) = tuned().configurations
    assert (item.index, item.us) == (0, 9.1) and "the first one" in item.why


def test_a_configuration_with_other_results_is_left_out(times, monkeypatch, caplog):
    monkeypatch.setattr(FakeEngine, "results", staticmethod(lambda number: torch.ones(3) + (number == 1)))
    with caplog.at_level(logging.WARNING, "bridge"):
        (item,) = tuned().configurations
    assert (item.index, item.us) == (2, 10.0) and "gives other results, by 1 of the largest value" in caplog.text


def test_a_configuration_that_does_not_fit_is_not_measured(times, monkeypatch):
    original = graphs.built_op

    def built_op(instance, *rest, **settings):
        if configuration_text(autotuned_launch(instance).configurations[0]) == unfit:
            raise BuildError("too much shared memory")
        return original(instance, *rest, **settings)

    def autotuned_launch(instance):
        return instance.regions[0].steps[0]

    (first,) = tuned().configurations
    measured_configurations.FILE.path_of(Config()).unlink()
    unfit = first.text
    monkeypatch.setattr(configuration_tuner, "built_op", built_op)
    (item,) = tuned().configurations
    assert item.measured_count == item.count - 1 and item.text != unfit


def test_what_the_model_cannot_be_run_for_is_left_out(times, monkeypatch):
    def fails(*args):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(configuration_tuner, "_arguments", fails)
    tuning = tuned()
    assert not tuning.configurations and "no kernel image" in str(tuning)
    assert [kind.partition("(")[0] for kind in tuning.left_out] == ["tune_test::centred"]


def test_measurements_of_another_gpu_and_damaged_ones_choose_nothing(times, caplog):
    (before,) = configurations(compiled())
    tuned()
    path = measured_configurations.FILE.path_of(Config())
    content = json.loads(path.read_text())
    for wrong in ({"target": "sm80"}, {"index": 100}, {"index": -1}, {"index": "1"}):
        path.write_text(json.dumps(content | {"measurements": [content["measurements"][0] | wrong]}))
        assert configurations(compiled()) == [before], wrong
    assert caplog.text.count("is ignored, it holds no measurements") == 2


def test_a_shipped_library_is_used_though_another_configuration_was_measured(times, tmp_path, monkeypatch):
    tuned()
    with Session.of(Config(target="sm86")).converting():
        program = torch.export.export(Centred().eval(), (X,), dynamic_shapes=({0: ROWS},))
        instances = marked_instances(program.graph)
    shipping.ship(instances, ["sm86"], tmp_path / "shipped")
    monkeypatch.setenv(folders.PATH_VARIABLE, str(tmp_path / "shipped"))
    assert len(configurations(compiled())) > 3


def test_torch_tensorrt_takes_what_was_measured(times):
    (item,) = tuned().configurations
    selection = measured_configurations.selection(Config(), flavour.detect(), "sm86", None)
    assert selection.chosen == {item.kind: 1} and not selection.tactics
    measures = dataclasses.replace(flavour.detect(), name="tensorrt")
    assert measured_configurations.selection(Config(), measures, "sm86", None).tactics
