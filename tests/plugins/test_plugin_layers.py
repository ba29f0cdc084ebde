"""How one use of an op becomes a plugin layer: fields, creators, seeds, the registry, the converter."""

import json
import math
import shutil
import types
from importlib.util import find_spec

import fresh_process
import numpy
import pytest
import torch
from own_ops import forgotten

import bridge
from bridge.core import libraries
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.engine_file import dtypes
from bridge.errors import BuildError
from bridge.tensorrt.install import flavour
from bridge.tensorrt.network import build, op_converter
from bridge.tensorrt.plugins.fields import Call, make_fields
from bridge.tensorrt.plugins.plugin_layers import DirectPlugins, SeededPlugins, create_plugin
from bridge.tensorrt.plugins.registration import register_plugins

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
HALF = dtypes.from_torch(torch.float16)
DEFORM = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1), "allow_tf32": False}


@pytest.fixture(scope="module")
def rtx():
    found = flavour.detect("tensorrt_rtx")
    register_plugins(found.trt(), [LIBRARIES["bridge"]])
    return found


@needs_rtx
def test_an_op_called_like_an_operator_of_onnx(rtx):
    with forgotten():

        @bridge.op("acme::Softmax")
        def softmax(x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        call = Call("softmax", OPS["acme::Softmax"], ((HALF, (2, 3)),), (HALF,), {})
        _builder, network = build.create_network(rtx)
        with pytest.raises(BuildError, match="takes acme::Softmax for an operator of ONNX"):
            SeededPlugins(rtx, network, [call])


def deform_call(name, present=("x", "offset", "weight", "mask")):
    shapes = {"x": (2, 4, 9, 8), "offset": (2, 18, 5, 6), "weight": (6, 4, 3, 3), "bias": (6,), "mask": (2, 9, 5, 6)}
    tensors = tuple((HALF, shapes[tensor]) if tensor in present else None for tensor in OPS["deform_conv2d"].tensors)
    return Call(name, OPS["deform_conv2d"], tensors, (HALF,), DEFORM)


def test_fields_spell_every_attribute_and_the_tensors_that_are_present():
    found = make_fields(OPS["deform_conv2d"], [True, True, True, False, True], DEFORM)
    assert [(field.name, field.kind.trt) for field in found] == [
        ("stride", "INT64"),
        ("padding", "INT64"),
        ("dilation", "INT64"),
        ("allow_tf32", "INT64"),
        ("tensors", "CHAR"),
    ]
    assert found[0].array().tolist() == [2, 1] and found[0].array().dtype == numpy.int64
    assert bytes(found[-1].array()) == b"x,offset,weight,mask"


def test_fields_mark_tensors_that_never_change():
    found = make_fields(OPS["deform_conv2d"], [True, True, True, True, False], DEFORM, {"weight", "bias", "mask"})
    assert bytes(found[-1].array()) == b"x,offset,weight=,bias="


def test_fields_keep_infinity_and_booleans():
    relu = make_fields(OPS["relu"], [True], {"negative_slope": 0, "max_value": math.inf})
    assert [field.array().tolist() for field in relu[:2]] == [[0.0], [math.inf]]
    rope = OPS["rope"]
    attributes = {"interleaved": True, "rotary_dim": 4, "layout": "bshd"}
    spelt = {field.name: field for field in make_fields(rope, [True] * 4 + [False], attributes)}
    assert spelt["interleaved"].array().tolist() == [1] and bytes(spelt["layout"].array()) == b"bshd"


@needs_rtx
@pytest.mark.parametrize("present", [("x", "offset", "weight"), ("x", "offset", "weight", "mask")])
def test_creators_make_plugins_from_the_fields(rtx, present):
    call = deform_call("node", present)
    plugin = create_plugin(rtx, "node", call.op, [tensor is not None for tensor in call.tensors], call.attributes)
    assert type(plugin).__name__ == "IPluginV3"


@needs_rtx
def test_a_plugin_that_is_not_registered_is_a_build_error(rtx):
    unknown = types.SimpleNamespace(
        name="fold_paper",
        local_name="fold_paper",
        namespace="acme",
        qualified_name="acme::fold_paper",
        attributes=[],
        tensors=["x"],
    )
    with pytest.raises(BuildError, match="no plugin acme::fold_paper is registered"):
        create_plugin(rtx, "node", unknown, [True], {})


class FakeNetwork:
    """The one function of standard TensorRT's network that its plugin layers need."""

    def __init__(self, takes=True):
        self.added = []
        self.takes = takes

    def add_plugin_v3(self, inputs, shape_inputs, plugin):
        self.added.append((inputs, shape_inputs, plugin))
        return types.SimpleNamespace(plugin=plugin) if self.takes else None


@needs_rtx
def test_direct_plugins_add_the_tensors_that_are_present(rtx):
    network = FakeNetwork()
    call = deform_call("node")
    layer = DirectPlugins(rtx, network).layer("node", call.op, ["x", "o", "w", None, "m"], call.attributes)
    assert network.added == [(["x", "o", "w", "m"], [], layer.plugin)]
    with pytest.raises(BuildError, match="TensorRT did not take the plugin deform_conv2d of node"):
        DirectPlugins(rtx, FakeNetwork(takes=False)).layer("node", call.op, ["x", "o", "w", None, "m"], call.attributes)


@needs_rtx
def test_seeded_layers_take_other_inputs_and_infer_their_shapes_anew(rtx):
    trt = rtx.trt()
    _, network = build.create_network(rtx)
    calls = [deform_call("first"), deform_call("second", ("x", "offset", "weight", "bias", "mask"))]
    plugins = SeededPlugins(rtx, network, calls)
    assert network.num_outputs == 0
    shapes = {"x": (-1, 4, 9, 8), "o": (-1, 18, 5, 6), "w": (6, 4, 3, 3), "m": (-1, 9, 5, 6)}
    x, o, w, m = (network.add_input(name, trt.float16, shape) for name, shape in shapes.items())
    layer = plugins.layer("first", calls[0].op, [x, o, w, None, m], DEFORM)
    assert tuple(layer.get_output(0).shape) == (-1, 6, 5, 6)
    assert [layer.get_input(index).name for index in range(layer.num_inputs)] == ["x", "o", "w", "m"]


@needs_rtx
def test_seeds_that_the_shape_rule_refuses_are_a_build_error(rtx):
    call = deform_call("node")
    wrong = (call.tensors[0], (HALF, (2, 18, 5)), *call.tensors[2:])
    with pytest.raises(BuildError, match="TensorRT did not import the plugins"):
        SeededPlugins(rtx, build.create_network(rtx)[1], [Call("node", call.op, wrong, (HALF,), DEFORM)])


REGISTER = """
import json, sys
from pathlib import Path
import tensorrt_rtx as trt, numpy
import bridge
from bridge.core.library import LIBRARIES
from bridge.errors import LibraryError
from bridge.tensorrt.plugins.registration import load_library

logger = trt.Logger(trt.Logger.ERROR)

class Creator(trt.IPluginCreatorV3One):
    def __init__(self):
        super().__init__()
        self.name, self.plugin_version, self.plugin_namespace = "relu", "1", "bridge"
        slope = trt.PluginField("slope", numpy.array([]), trt.PluginFieldType.FLOAT64)
        self.field_names = trt.PluginFieldCollection([slope])

if sys.argv[1] == "foreign":
    creator = Creator()
    assert trt.get_plugin_registry().register_creator(creator, "bridge")
elif sys.argv[1] != "none":
    assert trt.get_plugin_registry().load_library(sys.argv[1]) is not None
errors = []
for path in map(Path, sys.argv[2:]):
    try:
        load_library(trt, LIBRARIES["bridge"], path, LIBRARIES["bridge"].ops)
        errors.append(None)
    except LibraryError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""


def register(first, *paths):
    done = fresh_process.run(REGISTER, first, *paths)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_rtx
def test_a_library_registered_already_is_harmless(tmp_path):
    library = libraries.plugin_library()
    copy = shutil.copy(library, tmp_path / "copy.so")
    assert register("none", library, library, copy) == [None] * 3
    assert register(copy, library) == [None]


@needs_rtx
def test_other_plugins_of_the_same_names_are_an_error_that_says_how_they_differ():
    (error,) = register("foreign", libraries.plugin_library())
    assert "by something other than bridge" in error and str(libraries.plugin_library()) in error
    assert "relu: has fields ['slope'], expected fields ['max_value', 'negative_slope', 'tensors']" in error
    assert "rope: is missing" in error and "unset LD_PRELOAD" in error


@needs_rtx
def test_a_file_that_is_no_library_is_an_error(tmp_path):
    path = tmp_path / "plugins.so"
    path.write_bytes(b"no library")
    (error,) = register("none", path)
    assert f"did not load the plugin library {path}" in error


@needs_rtx
def test_the_converter_refuses_numbers_and_networks_without_seeds(rtx):
    rtx.torch_tensorrt()
    relu = OPS["relu"]
    ctx = types.SimpleNamespace(net=None, bridge=op_converter.Conversion(DirectPlugins(rtx, FakeNetwork())))
    with pytest.raises(BuildError, match=r"relu: x is the number 2\.0, expected a tensor"):
        op_converter.convert(ctx, relu.overload, (2.0,), {}, "block/relu")
    with pytest.raises(BuildError, match=r"use bridge\.compile"):
        op_converter.convert(types.SimpleNamespace(net=None), relu.overload, (2.0,), {}, "block/relu")
