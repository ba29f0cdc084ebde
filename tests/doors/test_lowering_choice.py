"""Which lowering a call gets: what is requested, measured, or the default; what it changes."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from compile_models import Attention, Convolutional, Deformable
from lowering_models import compiled, measurement, needs_torch_tensorrt, relu_call
from torch import nn

import bridge
from bridge import errors
from bridge.config import Config
from bridge.core.op import OPS
from bridge.doors.lowerings.lowering_choice import call_kind, choose
from bridge.engine.cache import EngineCache
from bridge.engine_file import dtypes
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.install import flavour
from bridge.tensorrt.plugins.fields import Call

pytestmark = needs_torch_tensorrt
MODELS = {
    Convolutional: ("relu", {"ACTIVATION", "ELEMENTWISE"}),
    Attention: ("rope", {"ROTARY_EMBEDDING"}),
    Deformable: ("deform_conv2d", {"GRID_SAMPLE", "MATRIX_MULTIPLY"}),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


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


def test_choices_are_part_of_the_cache_key():
    engines = [compiled(lowering=lowering) for lowering in ("plugin", "native", {"relu": "native"}, "auto")]
    assert [engine.from_cache for engine in engines] == [False, False, True, True]
    assert len(EngineCache.of(Config()).entries()) == 2
    reasons = [engine.file.metadata["lowerings"][0]["why"] for engine in engines]
    assert reasons[:3] == ["requested"] * 3 and reasons[3].startswith("the default: ")
