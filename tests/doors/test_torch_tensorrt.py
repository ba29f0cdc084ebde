"""The second door: torch_tensorrt.compile and torch.compile(backend="torch_tensorrt") with bridge's ops."""

import functools
import logging
import math
from collections import Counter
from importlib.util import find_spec

import pytest
import torch
from compile_models import Attention, Convolutional, Deformable, MultiScale
from own_ops import forgotten
from torch import nn

import bridge
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import BuildError, EngineError, TargetError
from bridge.tensorrt.guest import cpu_attention, engine_records
from bridge.tensorrt.guest.graph_hash import hash_arguments
from bridge.tensorrt.install import flavour, gpu, version_shims

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")
OPTIONS = {"min_block_size": 1, "decompose_attention": True}
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


@pytest.fixture(scope="module")
def torch_tensorrt():
    module = flavour.detect().torch_tensorrt()
    door.register()
    return module


@pytest.fixture
def build_here(torch_tensorrt):
    """A context in which engines are built: for sm86 where there is no GPU, for the GPU where there is one."""
    return lambda: door.cross_compile(None if torch.cuda.is_available() else "sm86")


def make(model, dtype=torch.float16):
    torch.manual_seed(0)
    model = model().eval().to(dtype)
    args, shapes = model.example(dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), tuple(tensor.to(device) for tensor in args), shapes


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
def test_attention_traced_on_a_cpu_is_treated_as_on_a_gpu(torch_tensorrt):
    class Plain(nn.Module):
        def forward(self, x):
            x = bridge.relu(x)
            return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    x = torch.randn(2, 4, 6, 8)
    found = []
    with door.cross_compile("sm86"):
        for decompose in (False, True):
            compiled = torch_tensorrt.compile(
                Plain().eval(), ir="dynamo", arg_inputs=[x], min_block_size=1, decompose_attention=decompose
            )
            found.append(Counter(layer["type"] for layer in door.layers_of(compiled)))
    assert found[0]["ATTENTION_INPUT"] == 1 and found[0]["MATRIX_MULTIPLY"] == 0
    assert found[1]["ATTENTION_INPUT"] == 0 and found[1]["MATRIX_MULTIPLY"] == 2


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


@needs_torch_tensorrt
def test_decompositions_take_what_those_of_every_version_take():
    def of_2_11(enable_experimental_decompositions=False, decompose_attention=False):
        return {"theirs": 0}

    def of_2_14(experimental=False, decompose_attention=False, use_distributed_mode_trace=False, use_fp32_acc=False):
        return {"theirs": 0}

    older, newer = map(cpu_attention._with_flash_on_cpu, (of_2_11, of_2_14))
    flash = cpu_attention.FLASH_ON_CPU
    assert older() == older(True) == newer(False, False, True) == newer(use_fp32_acc=True) == {"theirs": 0}
    assert older(False, True) == newer(decompose_attention=True) == {"theirs": 0, flash: cpu_attention._flash}
    assert newer(False, True, use_fp32_acc=True)[flash] is cpu_attention._flash_in_float32


def test_attention_that_sums_in_float32_is_for_float16_alone():
    torch.manual_seed(0)
    tensors = torch.randn(3, 2, 3, 64, 8, dtype=torch.float16)
    exact = torch.nn.functional.scaled_dot_product_attention(*tensors.double(), is_causal=True)
    errors = [
        (attend(*tensors, is_causal=True)[0].double() - exact).abs().mean().item()
        for attend in (cpu_attention._flash_in_float32, cpu_attention._flash)
    ]
    once = (exact.half().double() - exact).abs().mean().item()
    assert errors[0] < 1.1 * once < 1.5 * once < errors[1]  # rounded to float16 once, or several times
    others = tensors.bfloat16()
    results = [attend(*others)[0] for attend in (cpu_attention._flash_in_float32, cpu_attention._flash)]
    assert results[0].dtype == torch.bfloat16 and torch.equal(*results)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_engines_with_weights_that_change_need_a_gpu(torch_tensorrt, caplog):
    eager, args, _ = make(Convolutional, torch.float32)
    with pytest.raises(BuildError, match="leave immutable_weights=True"), door.cross_compile("sm86"):
        torch_tensorrt.compile(eager, ir="dynamo", arg_inputs=list(args), immutable_weights=False, **OPTIONS)


class Leaky(nn.Module):
    """One bridge op between others."""

    def __init__(self, slope=0.1):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return bridge.relu(x * 2, self.slope) + 1


def hash_of(torch_tensorrt, model, *args):
    from torch_tensorrt.dynamo._engine_cache import BaseEngineCache
    from torch_tensorrt.dynamo._settings import CompilationSettings

    graph = torch.export.export(model.eval(), args or (torch.randn(2, 3),)).module()
    with gpu.without_gpu():
        return BaseEngineCache.get_hash(graph, [torch_tensorrt.Input((2, 3))], CompilationSettings())


@needs_torch_tensorrt
def test_the_engine_caches_key_holds_the_arguments(torch_tensorrt):
    first, again, other = (hash_of(torch_tensorrt, Leaky(slope)) for slope in (0.1, 0.1, 0.2))
    assert first == again != other
    assert len(first) < 256  # a folder's name


def test_hash_of_arguments_tells_graphs_apart_and_not_names():
    def graph(body):
        return torch.export.export(type("Model", (nn.Module,), {"forward": body})(), (torch.ones(2), torch.ones(2)))

    bodies = {
        "a - b": lambda self, a, b: a - b,
        "b - a": lambda self, a, b: b - a,
        "times 2": lambda self, a, b: (a - b) * 2,
        "times 2.0": lambda self, a, b: (a - b) * 2.0,
        "dtype": lambda self, a, b: (a - b).to(torch.float16),
        "slice": lambda self, a, b: (a - b)[1:],
    }
    hashes = {name: hash_arguments(graph(body).graph) for name, body in bodies.items()}
    assert len(set(hashes.values())) == len(bodies)
    renamed = graph(lambda self, left, right: left - right)
    for node in renamed.graph.nodes:
        node._rename(f"{node.name}_renamed")
    assert hash_arguments(renamed.graph) == hashes["a - b"]


@needs_torch_tensorrt
def test_ops_left_in_pytorch_are_told(torch_tensorrt, build_here, caplog):
    with build_here() as engines:
        compiled = torch_tensorrt.compile(
            Leaky().eval(), ir="dynamo", arg_inputs=[torch.randn(2, 3)], min_block_size=10
        )
    (record,) = [record for record in caplog.records if record.name == "bridge"]
    assert engines == [] and door.layers_of(compiled) is None and record.levelno == logging.WARNING
    assert "leaves in PyTorch 1 of bridge's ops" in record.getMessage()
    assert "relu (bridge.relu.default), in a block of fewer than min_block_size=10" in record.getMessage()
    assert f"{__file__}:" in record.getMessage()


@needs_torch_tensorrt
def test_dtypes_that_tensorrt_lacks_stay_in_pytorch_and_are_told(torch_tensorrt, build_here, caplog):
    with build_here():
        torch_tensorrt.compile(
            Leaky().eval(), ir="dynamo", arg_inputs=[torch.randn(2, 3, dtype=torch.float64)], min_block_size=1
        )
    assert "it takes or gives torch.float64, which TensorRT lacks" in caplog.text


@needs_torch_tensorrt
def test_a_failure_that_torch_compile_swallows_is_told(torch_tensorrt, build_here, caplog, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("bridge.tensorrt.plugins.plugin_layers.SeededPlugins.layer", broken)
    torch._dynamo.reset()
    x = torch.randn(2, 3)
    with build_here() as engines, torch.no_grad():
        compiled = torch.compile(Leaky().eval(), backend="torch_tensorrt", options={"min_block_size": 1})
        torch.testing.assert_close(compiled(x), Leaky()(x))
    (record,) = [record for record in caplog.records if record.name == "bridge"]
    assert record.levelno == logging.ERROR and engines == []
    assert "relu (bridge.relu.default)" in record.getMessage() and f"{__file__}:" in record.getMessage()
    assert "bridge.relu.default cannot be converted: broken on purpose" in record.getMessage()


@needs_torch_tensorrt
def test_a_failure_before_conversion_is_told(torch_tensorrt, build_here, caplog, monkeypatch):
    def broken(*args):
        raise RuntimeError("no lowering")

    monkeypatch.setattr("torch_tensorrt.dynamo.backend.backends.post_lowering", broken)
    torch._dynamo.reset()
    with build_here(), torch.no_grad():
        torch.compile(Leaky().eval(), backend="torch_tensorrt", options={"min_block_size": 1})(torch.randn(2, 3))
    (record,) = [record for record in caplog.records if record.name == "bridge"]
    assert record.levelno == logging.ERROR and "failed before it converted a graph" in record.getMessage()


@needs_torch_tensorrt
def test_layers_seeded_and_not_used_are_an_error(torch_tensorrt, build_here, monkeypatch):
    monkeypatch.setattr("bridge.tensorrt.plugins.plugin_layers.SeededPlugins.unused", lambda self: ["relu"])
    with (
        pytest.raises(BuildError, match=r"were not converted to the plugin layers prepared for them: \['relu'\]"),
        build_here(),
    ):
        torch_tensorrt.compile(Leaky().eval(), ir="dynamo", arg_inputs=[torch.randn(2, 3)], min_block_size=1)


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


def test_inventories_are_bounded(monkeypatch):
    monkeypatch.setattr(engine_records, "_known", type(engine_records._known)())
    for index in range(engine_records._MAX_ENGINES + 3):
        engine_records.set_layers([{"name": str(index)}])
        engine_records.record_engine(bytes([index]))
    assert door.layers_of(bytes([2])) is None and door.layers_of(bytes([3])) == [{"name": "3"}]
    engine_records.set_layers(None)
    engine_records.record_engine(b"from a cache")
    assert door.layers_of(b"from a cache") is None


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


@pytest.fixture
def refittable(torch_tensorrt, device):
    """torch_tensorrt.compile of engines whose weights can be refitted; its engine cache takes no others."""
    compile_one = functools.partial(torch_tensorrt.compile, ir="dynamo", min_block_size=1, immutable_weights=False)
    try:
        compile_one(nn.Linear(3, 3).eval().to(device), arg_inputs=[torch.randn(2, 3, device=device)])
    except TypeError as error:  # it takes the None that TensorRT gives for an engine
        pytest.skip(f"TensorRT builds no engine here whose weights can be refitted: {error}")
    return compile_one


@pytest.mark.gpu(engines=True)
def test_engines_of_two_slopes_do_not_mix_in_the_cache(refittable, device, tmp_path):
    cached = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": str(tmp_path)}
    x = torch.randn(2, 3, device=device)
    for slope in (0.1, 0.5, 0.1):
        model = Leaky(slope).eval().to(device)
        compiled = refittable(model, arg_inputs=[x], **cached)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)
    assert len(list(tmp_path.iterdir())) == 2
