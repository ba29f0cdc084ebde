"""Which lowering a call gets: what is requested, measured, or the default; what is remembered; what it changes."""

import errno
import fcntl
import json
import logging
import math
import multiprocessing
import os
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from compile_models import Attention, Convolutional, Deformable
from torch import nn

import bridge
from bridge import errors
from bridge.config import Config
from bridge.core.op import OPS
from bridge.doors import measured_lowerings
from bridge.doors.lowering_choice import call_kind, choose
from bridge.doors.measured_lowerings import Measurement
from bridge.engine.cache import EngineCache
from bridge.engine.explain import as_json_values
from bridge.engine_file import dtypes
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.install import flavour
from bridge.tensorrt.plugins.fields import Call

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
MODELS = {
    Convolutional: ("relu", {"ACTIVATION", "ELEMENTWISE"}),
    Attention: ("rope", {"ROTARY_EMBEDDING"}),
    Deformable: ("deform_conv2d", {"GRID_SAMPLE", "MATRIX_MULTIPLY"}),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def compiled(model=Convolutional, dtype=torch.float16, **settings):
    torch.manual_seed(0)
    args, dynamic_shapes = model.example(dtype)
    return bridge.compile(
        model().eval().to(dtype), args, dynamic_shapes=dynamic_shapes, **({"target": "sm86"} | settings)
    )


def relu_call(shape=(3, 5), **attributes):
    half = dtypes.from_torch(torch.float16)
    return Call("relu", OPS["relu"], ((half, shape),), (half,), {"negative_slope": 0.1, "max_value": 6.0} | attributes)


def measurement(kind, lowering="native", **changes):
    found = flavour.detect()
    values = {
        "kind": kind,
        "lowering": lowering,
        "plugin_us": 15.1,
        "native_us": 12.3,
        "noise_us": 0.2,
        "gpu": "NVIDIA A10",
        "target": "sm86",
        "flavour": found.name,
        "tensorrt": found.version,
        "bridge": bridge.__version__,
        "measured": "2026-01-01T00:00:00+00:00",
    }
    return Measurement(**(values | changes))


# Native engines


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_native_engines_have_layers_of_tensorrt_and_no_plugin(model, dtype):
    op, types = MODELS[model]
    engine = compiled(model, dtype, lowering="native")
    assert engine.plugin_counts() == {} and engine.file.plugins == {} and len(engine.engine) > 10_000
    names = {layer["name"]: layer["type"] for layer in engine.layers}
    nodes = [node for node in engine.file.metadata["nodes"] if node["op"] == f"bridge.{op}"]
    made = {names[name] for node in nodes for name in node["layers"]}
    assert types <= made and "PLUGIN_V3" not in names.values()
    assert any(name.startswith(f"[bridge::{op}]-[") for node in nodes for name in node["layers"])
    assert all(kind in engine.explain(nodes=True) for kind in types)
    assert {row["lowering"] for row in bridge.report(engine).lowerings} == {"native"}


def test_ops_are_lowered_one_by_one():
    class Both(nn.Module):
        def forward(self, x):
            cos, sin = torch.ones(5, 4).to(x), torch.zeros(5, 4).to(x)
            q, k = bridge.rope(bridge.relu(x), x, cos, sin)
            return q + k

    x = torch.randn(2, 3, 5, 8)
    engine = bridge.compile(Both().eval(), (x,), target="sm86", lowering={"rope": "native", "relu": "plugin"})
    assert engine.plugin_counts() == {"relu": 1} and engine.file.plugins == {"relu": "1"}
    assert Counter(layer["type"] for layer in engine.layers)["ROTARY_EMBEDDING"] == 2
    assert "1 relu  plugin  requested" in engine.explain() and "1 rope native: requested" in str(bridge.report(engine))


@pytest.mark.parametrize(
    ("op", "args", "kwargs"),
    [
        (
            "rope",
            [(2, 5, 3, 8), (2, 5, 1, 8), (5, 6), (5, 6)],
            {"rotary_dim": 6, "layout": "bshd", "interleaved": True},
        ),
        ("rope", [(2, 3, 5, 8), (2, 3, 5, 8), (5, 8), (5, 8)], {}),
        ("relu", [()], {"negative_slope": -0.5, "max_value": -1.0}),
        ("relu", [(2, 3)], {"max_value": 6.0}),
        ("deform_conv2d", [(2, 6, 9, 8), (2, 36, 9, 8), (4, 3, 3, 3)], {"padding": (1, 1)}),
    ],
    ids=str,
)
def test_every_way_of_lowering_becomes_an_engine(op, args, kwargs):
    """Those that the models above do not take; weights are inputs here."""

    class Net(nn.Module):
        def forward(self, *tensors):
            return OPS[op].overload(*tensors, **kwargs)

    engine = bridge.compile(Net().eval(), tuple(map(torch.randn, args)), target="sm86", lowering="native")
    assert engine.plugin_counts() == {} and len(engine.engine) > 1000


def test_torch_compile_takes_the_option():
    torch._dynamo.reset()
    options = {"target": "sm86", "lowering": {"relu": "native"}}
    model = torch.compile(Convolutional().eval(), backend="bridge", options=options)
    with torch.no_grad(), pytest.raises(errors.EngineError):  # compiled; there may be no GPU of that kind to run it
        model(torch.randn(2, 3, 16, 12))
        raise errors.EngineError
    report = bridge.report(model)
    assert report.plugin_counts() == {} and [row["op"] for row in report.lowerings] == ["relu", "relu"]


# Settings


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("fast", ValueError, "lowering is 'fast'; expected one of auto, plugin, native"),
        ({"relu": "fast"}, ValueError, "lowering['relu'] is 'fast'; expected one of auto, plugin, native"),
        (
            {"rlu": "native"},
            ValueError,
            f"lowering names the op 'rlu', which does not exist; the ops are {', '.join(sorted(OPS))}",
        ),
        (None, TypeError, "lowering is None of type NoneType; expected str or Mapping"),
    ],
)
def test_bad_settings_name_the_known_ones(value, error, text):
    with pytest.raises(error) as caught:
        Config(lowering=value)
    assert text in str(caught.value)


def test_a_mapping_leaves_the_others_to_auto():
    config = Config(lowering={"rope": "native"})
    assert [config.lowering_of(op) for op in ("rope", "relu")] == ["native", "auto"]
    assert Config(lowering="plugin").lowering_of("relu") == "plugin"


def test_native_that_is_refused_names_reason_line_and_way_out():
    class Net(nn.Module):
        def forward(self, x):
            return bridge.relu(x, float("inf"))

    with pytest.raises(errors.UnsupportedOpError) as caught:
        bridge.compile(Net().eval(), (torch.ones(2),), target="sm86", lowering="native", cache=False)
    text = str(caught.value)
    assert "negative_slope is inf" in text and __file__ in text and 'lowering={"relu": "plugin"}' in text
    engine = bridge.compile(Net().eval(), (torch.ones(2),), target="sm86")
    assert engine.plugin_counts() == {"relu": 1} and "the only one possible: negative_slope is inf" in engine.explain()


def test_an_op_without_native_lowering_is_refused(monkeypatch):
    monkeypatch.setattr(native_lowerings, "find", lambda op: None)
    found = flavour.detect()
    with pytest.raises(errors.UnsupportedOpError, match="relu has no native lowering"):
        choose([relu_call()], Config(lowering="native"), found, {})
    (choice,) = choose([relu_call()], Config(), found, {})
    assert (choice.lowering, choice.why) == ("plugin", "the only one possible: relu has no native lowering")


@pytest.mark.parametrize("op", OPS)
def test_every_default_has_a_reason(op):
    for name in ("tensorrt", "tensorrt_rtx"):
        default = native_lowerings.default(op, name)
        assert default.lowering in ("plugin", "native") and len(default.reason) > 20


@pytest.mark.parametrize("shapes", [{"q": (2, 3, 5, -1)}, {"cos": (5, -1)}])
def test_rope_needs_widths(shapes):
    single = dtypes.from_torch(torch.float32)
    known = {"q": (2, 3, 5, 8), "k": (2, 3, 5, 8), "cos": (5, 4), "sin": (5, 4)}
    tensors = tuple((single, shape) for shape in known.values())
    given = {**known, **shapes}
    call = Call("rope", OPS["rope"], (*tensors, None), (single, single), {}, (*given.values(), None))
    assert "dynamic" in native_lowerings.refusal(call, flavour.detect().trt())


# Measurements


def test_kinds_of_calls_round_shapes_up():
    assert call_kind(relu_call()) == "relu(x: float16[4, 8], negative_slope=0.1, max_value=6.0)"
    assert call_kind(relu_call((4, 8))) == call_kind(relu_call((3, 5))) != call_kind(relu_call((4, 9)))
    assert call_kind(relu_call(negative_slope=0.2)) != call_kind(relu_call())
    assert call_kind(relu_call((0, 1))).startswith("relu(x: float16[0, 1]")


def test_measured_before_default_and_after_what_is_asked_for():
    found = flavour.detect()
    known = {call_kind(relu_call()): measurement(call_kind(relu_call()))}
    (choice,) = choose([relu_call()], Config(), found, known)
    expected = "measured 12.3 µs a run of the engine, 15.1 µs as plugin, on NVIDIA A10"
    assert (choice.lowering, choice.why) == ("native", expected)
    (choice,) = choose([relu_call()], Config(lowering="plugin"), found, known)
    assert (choice.lowering, choice.why) == ("plugin", "requested")
    (choice,) = choose([relu_call((9, 9))], Config(), found, known)
    assert choice.why.startswith("the default: ")
    tie = replace(measurement("relu"), lowering="plugin", noise_us=5.0)
    assert tie.why.endswith("12.3 µs as native, on NVIDIA A10, within the noise: the default")
    wrong = replace(measurement("relu"), lowering="plugin", difference=1.6)
    assert wrong.why.endswith("; native layers gave other results, by 1.6 of the largest value: the plugin")
    assert not replace(wrong, difference=math.nan).agrees


def test_what_is_remembered_holds_for_one_gpu_target_and_version():
    config, found = Config(), flavour.detect()
    ours, older = measurement("a"), measurement("a", "plugin", gpu="NVIDIA A2", measured="2025-01-01T00:00:00+00:00")
    others = [measurement("b", target="sm89"), measurement("b", tensorrt="1.0"), measurement("b", bridge="0.0.1")]
    measured_lowerings.store_measurements(config, [ours, older, *others])
    assert measured_lowerings.load_measurements(config, found, "sm86", "NVIDIA A10") == {"a": ours}
    assert measured_lowerings.load_measurements(config, found, "sm86", "NVIDIA A2") == {"a": older}
    assert measured_lowerings.load_measurements(config, found, "sm86", None) == {
        "a": ours
    }  # built elsewhere: the last measured
    assert measured_lowerings.load_measurements(config, found, "sm86", "NVIDIA H100") == {}
    measured_lowerings.store_measurements(config, [newer := replace(ours, native_us=1.0)])
    assert measured_lowerings.load_measurements(config, found, "sm86", "NVIDIA A10") == {"a": newer}
    assert len(json.loads(measured_lowerings.path_of(config).read_text())["measurements"]) == 5


def test_processes_that_measure_at_once_lose_nothing():
    def store(name):
        for number in range(5):
            measured_lowerings.store_measurements(Config(), [measurement(f"{name} {number}")])

    fork = multiprocessing.get_context("fork")  # a process that imports torch anew takes seconds
    children = [fork.Process(target=store, args=(name,)) for name in ("a", "b", "c")]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    path = measured_lowerings.path_of(Config())
    assert len(json.loads(path.read_text())["measurements"]) == 15
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no lock, nothing half written


def test_a_folder_that_cannot_be_written_to_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        measured_lowerings.store_measurements(Config(cache_dir=str(tmp_path / "file")), [measurement("a")])

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    measured_lowerings.store_measurements(Config(), [measurement("a")])  # which is no obstacle
    assert measured_lowerings.path_of(Config()).is_file()


def test_a_file_written_by_hand_decides(monkeypatch):
    plain = compiled()
    kinds = {row["kind"]: row["lowering"] for row in plain.file.metadata["lowerings"]}
    assert kinds == dict.fromkeys(kinds, "plugin") and len(kinds) == 2
    first = next(iter(kinds))
    values = vars(measurement(first)) | {"measured": "2026-02-02"}
    path = measured_lowerings.path_of(Config())
    path.write_text(json.dumps({"format": 1, "measurements": [values]}))
    tuned = compiled()
    assert not tuned.from_cache and tuned.plugin_counts() == {"relu": 1}
    assert [row["lowering"] for row in as_json_values(tuned.file)["lowerings"]] == ["native", "plugin"]
    assert "1 relu  native  measured 12.3 µs a run of the engine, 15.1 µs as plugin, on NVIDIA A10" in tuned.explain()
    path.unlink()
    assert compiled().from_cache  # of the first


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "5", '{"format": 2}', '{"format": 1, "measurements": 5}', '{"format": 1}', "\x00\xff"),
        '{"format": 1, "measurements": [{"kind": 1}]}',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"format": 1, "measurements": [' + "[" * 900 + "]" * 900 + "]}", id="deep measurements"),
        pytest.param(" " * (17 << 20), id="large"),
        pytest.param('{"format": ' + "9" * 5000 + "}", id="a number of 5000 digits"),
    ],
)
def test_a_damaged_file_is_ignored_with_a_warning(content, caplog):
    config, found = Config(), flavour.detect()
    path = measured_lowerings.path_of(config)
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    with caplog.at_level(logging.WARNING, "bridge"):
        assert measured_lowerings.load_measurements(config, found, "sm86", None) == {}
    assert str(path) in caplog.text and "ignored" in caplog.text
    measured_lowerings.store_measurements(config, [measurement("a")])
    assert list(measured_lowerings.load_measurements(config, found, "sm86", None)) == ["a"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"plugin_us": "fast"}, {"plugin_us": 10**400}, {"plugin_us": True}, {"noise_us": None}, {"difference": []}),
        *({"kind": ["a"]}, {"lowering": "fast"}, {"lowering": {}}, {"gpu": "A10\x1b[2J"}, {"gpu": "\ud800"}),
        *({"measured": 2026}, {"another bridge": "knows"}),
    ],
    ids=lambda wrong: f"{next(iter(wrong))}",
)
def test_measurements_of_wrong_types_are_ignored_with_a_warning(wrong, caplog):
    path = measured_lowerings.path_of(Config())
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 1, "measurements": [vars(measurement("a")) | wrong]}))
    assert measured_lowerings.load_measurements(Config(), flavour.detect(), "sm86", None) == {}
    assert "ignored" in caplog.text and "\x1b" not in caplog.text


def test_what_is_no_file_of_this_user_is_ignored_and_not_waited_for(monkeypatch, caplog):
    path = measured_lowerings.path_of(Config())
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert (
        measured_lowerings.load_measurements(Config(), flavour.detect(), "sm86", None) == {}
        and "no regular file" in caplog.text
    )
    assert compiled().plugin_counts() == {"relu": 2}
    path.unlink()
    path.mkdir()
    assert (
        measured_lowerings.load_measurements(Config(), flavour.detect(), "sm86", None) == {}
        and "is a directory" in caplog.text
    )
    path.rmdir()
    measured_lowerings.store_measurements(Config(), [measurement("a")])
    uid = os.geteuid()
    os.chown(path, 12345 if uid == 0 else -1, -1)
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert (
        measured_lowerings.load_measurements(Config(), flavour.detect(), "sm86", None) == {}
        and "belongs to user" in caplog.text
    )


def test_choices_are_part_of_the_cache_key():
    engines = [compiled(lowering=lowering) for lowering in ("plugin", "native", {"relu": "native"}, "auto")]
    assert [engine.from_cache for engine in engines] == [False, False, True, True]
    assert len(EngineCache.of(Config()).entries()) == 2
    reasons = [engine.file.metadata["lowerings"][0]["why"] for engine in engines]
    assert reasons[:3] == ["requested"] * 3 and reasons[3].startswith("the default: ")


def test_tuning_without_a_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(errors.EngineError, match="no CUDA GPU here to measure on"):
        bridge.tune(Convolutional().eval(), Convolutional.example(torch.float32)[0])


def test_tuning_builds_both_and_remembers_the_faster(monkeypatch, caplog):
    """Without a GPU: the engines are built, and their times made up."""
    from bridge.doors import tuner
    from bridge.engine.timing import Timing

    args, dynamic_shapes = Convolutional.example(torch.float16)
    given = []

    def compare(engines, inputs):
        given.append([engine.file.plugins for engine in engines])
        return [Timing(us, us, us, 0.1) for us in (20.0, 10.0 if len(given) == 1 else 19.9)]

    monkeypatch.setattr(tuner, "_check_gpu", lambda: None)
    monkeypatch.setattr(tuner, "_check_target", lambda target: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10")  # of a target that is not here
    monkeypatch.setattr(tuner, "example_inputs", lambda *rest: [])

    class Engine:
        results = (torch.ones(2),) * 4

        def __init__(self, file):
            self.file = file

        def __call__(self):
            result, *Engine.results = Engine.results
            return result

    monkeypatch.setattr(tuner, "Engine", Engine)
    monkeypatch.setattr(tuner, "compare", compare)
    model = Convolutional().eval().half()
    tuning = bridge.tune(model, args, dynamic_shapes=dynamic_shapes, target="sm86")
    assert [(item.lowering, item.tie) for item in tuning.measurements] == [("native", False), ("plugin", True)]
    assert given == [[{"relu": "1"}, {"relu": "1"}]] * 2  # one of two calls is native in the second engine
    assert "20.0    10.0    native" in str(tuning) and "plugin (tie)" in str(tuning)
    engine = bridge.compile(model, args, dynamic_shapes=dynamic_shapes, target="sm86")
    assert [row["lowering"] for row in bridge.report(engine).lowerings] == ["native", "plugin"]
    given.clear()
    Engine.results = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), torch.ones(2), torch.ones(2)
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
