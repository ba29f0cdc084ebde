"""The second door: torch_tensorrt.compile and torch.compile(backend="torch_tensorrt") with bridge's ops."""

import functools
import math
from collections import Counter

import pytest
import torch
from compile_models import Attention, Convolutional, Deformable, MultiScale
from door_models import OPTIONS, make, needs_torch_tensorrt
from own_ops import forgotten

import bridge
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import BuildError, EngineError, TargetError
from bridge.tensorrt.install import gpu, version_shims

MODELS = {
    Convolutional: {"relu": 2},
    Attention: {"rope": 1},
    Deformable: {"deform_conv2d": 2},
    MultiScale: {"ms_deform_attn": 1, "ms_deform_attn_fused": 1},
}
SHARED = {"stride": [2, 1], "padding": [1, 1], "dilation": [1, 1], "allow_tf32": 0}
ATTRIBUTES = {
    Convolutional: [
        {"negative_slope": 0.1, "max_value": 6.0, "tensors": "x"},
        {"negative_slope": 0.0, "max_value": math.inf, "tensors": "x"},
    ],
    Attention: [{"interleaved": 0, "rotary_dim": 0, "layout": "bhsd", "tensors": "q,k,cos,sin,position_ids"}],
    Deformable: [SHARED | {"tensors": "x,offset,weight,bias"}, SHARED | {"tensors": "x,offset,weight,mask"}],
    MultiScale: [
        {"tensors": f"value,spatial_shapes,level_start_index,{rest}"}
        for rest in (
            "reference_points,sampling_offsets,attention_logits",
            "sampling_locations,attention_weights",
        )
    ],
}


def inputs_of(torch_tensorrt, args, shapes):
    """torch_tensorrt's way to say that the batch is 1 to 8, and the length of what has a dynamic one 1 to 64."""
    found = []
    for tensor, dynamic in zip(args, shapes.values(), strict=True):
        dims = list(tensor.shape)
        low, high = ([1, 1], [8, 64]) if 1 in dynamic else ([1], [8])
        rest = dims[len(low) :]
        found.append(
            torch_tensorrt.Input(min_shape=low + rest, opt_shape=dims, max_shape=high + rest, dtype=tensor.dtype)
        )
    return found


def plugin_layers(engine):
    return [layer for layer in door.layers_of(engine) if layer["type"] == "PLUGIN_V3"]


@needs_torch_tensorrt
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_models_become_one_engine(torch_tensorrt, build_here, model, dynamic):
    eager, args, shapes = make(model)
    with build_here() as engines:
        if dynamic:
            program = torch.export.export(eager, args, dynamic_shapes=shapes)
            compiled = torch_tensorrt.dynamo.compile(
                program, arg_inputs=inputs_of(torch_tensorrt, args, shapes), **OPTIONS
            )
        else:
            compiled = torch_tensorrt.compile(eager, ir="dynamo", arg_inputs=list(args), **OPTIONS)
    assert [name for name, _ in compiled.named_children()] == ["_run_on_acc_0"]
    assert door.engines_of(compiled) == engines and len(engines) == 1 and len(engines[0]) > 10_000
    layers = plugin_layers(compiled)
    assert Counter(layer["op"] for layer in layers) == MODELS[model]
    assert [layer["attributes"] for layer in layers] == ATTRIBUTES[model]
    assert {output["dtype"] for layer in layers for output in layer["outputs"]} == {"float16"}
    assert {output["shape"][0] for layer in layers for output in layer["outputs"]} == {-1 if dynamic else 2}


@needs_torch_tensorrt
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_models_become_one_engine_by_torch_compile(build_here, model):
    eager, args, _ = make(model)
    torch._dynamo.reset()
    for tensor in args:
        torch._dynamo.mark_dynamic(tensor, 0, min=1, max=8)
    options = OPTIONS | {"pass_through_build_failures": True}
    with build_here() as engines, torch.no_grad():
        compiled = torch.compile(eager, backend="torch_tensorrt", options=options)
        if torch.cuda.is_available():
            compiled(*args)
        else:
            with pytest.raises(EngineError, match="this engine was built for sm86"):
                compiled(*args)
    assert len(engines) == 1
    assert [layer["attributes"] for layer in plugin_layers(engines[0])] == ATTRIBUTES[model]


@needs_torch_tensorrt
@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what works without a GPU")
@pytest.mark.parametrize("python_runtime", [False, True])
def test_modules_for_another_gpu_say_so_when_they_run(torch_tensorrt, python_runtime):
    eager, args, _ = make(Convolutional)
    with door.cross_compile("8.6"):
        compiled = torch_tensorrt.compile(
            eager, ir="dynamo", arg_inputs=list(args), use_python_runtime=python_runtime, **OPTIONS
        )
    with pytest.raises(EngineError, match=r"built for sm86 within bridge\.cross_compile"):
        compiled(*args)
    with pytest.raises(EngineError, match="built for sm86"):
        compiled._run_on_acc_0.engine.create_execution_context()


@needs_torch_tensorrt
@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what works without a GPU")
@pytest.mark.parametrize("made_for", ["1.3.0", None])
def test_a_cpp_runtime_made_for_another_rtx_is_passed_over(torch_tensorrt, monkeypatch, caplog, made_for):
    """It would end the process."""
    runtime = torch_tensorrt.dynamo.runtime
    if not hasattr(runtime, "PythonTorchTensorRTModule"):
        pytest.skip("this torch_tensorrt chooses its runtime as it is imported; see test_torch_tensorrt_hook.py")
    door.unregister()
    monkeypatch.setattr(version_shims, "other_rtx", lambda version: made_for)
    caplog.set_level("INFO", logger="bridge")
    door.register()
    eager, args, _ = make(Convolutional)
    with door.cross_compile("8.6"):
        compiled = torch_tensorrt.compile(eager, ir="dynamo", arg_inputs=list(args), **OPTIONS)
    assert isinstance(compiled._run_on_acc_0, runtime.PythonTorchTensorRTModule) is (made_for is not None)
    assert ("was compiled for TensorRT-RTX 1.3.0" in caplog.text) is (made_for is not None)
    monkeypatch.undo()
    door.unregister(), door.register()


@needs_torch_tensorrt
def test_exported_programs_become_engine_bytes(torch_tensorrt, build_here):
    eager, args, _ = make(Convolutional)
    program = torch.export.export(eager, args)
    with build_here() as engines:
        engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            program, arg_inputs=list(args), **OPTIONS
        )
    assert engines == [engine]
    assert [layer["attributes"] for layer in plugin_layers(engine)] == ATTRIBUTES[Convolutional]


@needs_torch_tensorrt
@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what works without a GPU")
def test_cross_compile_leaves_no_traces(torch_tensorrt):
    from torch_tensorrt.dynamo import runtime, utils
    from torch_tensorrt.dynamo.conversion import _conversion
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS

    watched = [
        (torch.cuda, "current_device"),
        (torch.cuda, "get_device_properties"),
        (runtime.TorchTensorRTModule, "setup_engine"),
        (utils, "to_torch_device"),
        (_conversion, "pull_cached_engine"),
    ]
    before = [getattr(*place) for place in watched], dict(DYNAMO_ATEN_CONVERTERS)
    with pytest.raises(KeyError), door.cross_compile("sm86"), door.cross_compile("sm89"):
        assert getattr(*watched[2]) is not before[0][2]
        raise KeyError
    assert ([getattr(*place) for place in watched], dict(DYNAMO_ATEN_CONVERTERS)) == before


@needs_torch_tensorrt
def test_targets_of_cross_compile(torch_tensorrt, monkeypatch):
    with pytest.raises(TargetError, match="sm75"), door.cross_compile("sm99"):
        pass
    monkeypatch.setattr(gpu, "current_target", lambda: None)
    with pytest.raises(TargetError, match="there is no GPU here"), door.cross_compile():
        pass
    setup = torch_tensorrt.runtime.TorchTensorRTModule.setup_engine
    monkeypatch.setattr(gpu, "current_target", lambda: "sm90")
    for target in (None, "sm90"):
        with door.cross_compile(target) as engines:
            assert engines == [] and torch_tensorrt.runtime.TorchTensorRTModule.setup_engine is setup


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_engines_with_weights_that_change_need_a_gpu(torch_tensorrt, caplog):
    eager, args, _ = make(Convolutional, torch.float32)
    with pytest.raises(BuildError, match="leave immutable_weights=True"), door.cross_compile("sm86"):
        torch_tensorrt.compile(eager, ir="dynamo", arg_inputs=list(args), immutable_weights=False, **OPTIONS)


@needs_torch_tensorrt
def test_ops_defined_after_torch_tensorrt_are_known(torch_tensorrt):
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    from bridge.tensorrt.network import op_converter

    with forgotten():

        @bridge.op("folding::fold_paper")
        def fold_paper(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        overload = torch.ops.folding.fold_paper.default
        assert overload not in DYNAMO_CONVERTERS
        op_converter.refresh()
        assert overload in DYNAMO_CONVERTERS


# On a GPU


TOLERANCE = {"rtol": 2e-2, "atol": 2e-2}


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_torch_tensorrt_compile_equals_eager(torch_tensorrt, model, device):
    eager, args, shapes = make(model)
    program = torch.export.export(eager, args, dynamic_shapes=shapes)
    compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=inputs_of(torch_tensorrt, args, shapes), **OPTIONS)
    assert [name for name, _ in compiled.named_children()] == ["_run_on_acc_0"]
    for batch in (1, 2, 8):
        given = [tensor[:1].repeat(batch, *[1] * (tensor.dim() - 1)) for tensor in args]
        torch.testing.assert_close(compiled(*given), eager(*given), **TOLERANCE)


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_torch_compile_equals_eager(torch_tensorrt, model, device):
    if model is Attention:  # torch_tensorrt 2.11's decomposition of cuDNN's attention has no grouped queries
        model = functools.partial(Attention, kv_heads=4)
        model.example = Attention.example
    eager, args, _ = make(model)
    torch._dynamo.reset()
    options = OPTIONS | {"pass_through_build_failures": True}
    with torch.no_grad():
        compiled = torch.compile(eager, backend="torch_tensorrt", options=options)
        torch.testing.assert_close(compiled(*args), eager(*args), **TOLERANCE)
