"""The plugins as TensorRT sees them: creation, fields, formats, clones, execution."""

import ctypes
import math
import struct
from typing import Any

import pytest
import torch
from plugin_host import Plugin, creators
from samples import FIXED, PAIRS, RANDOM, SAMPLES
from samples.rope import rope_arguments

from bridge.base.float32 import nearest
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.tensorrt.plugins.plugin_object import CHW4, DTYPES, HWC, HWC8, DynamicDesc, call, desc, dims
from bridge.testing import cast, check_error, outputs_of
from bridge.testing.arguments import with_dtype

FLOATING = (torch.float32, torch.float16, torch.bfloat16)


def arrange(name: str, args: list, kwargs: dict) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The tensors present, and the fields of a plugin that takes them."""
    tensors, attributes = OPS[name].bind(args, kwargs)
    present = [parameter for parameter, tensor in zip(OPS[name].tensors, tensors, strict=True) if tensor is not None]
    return [t for t in tensors if t is not None], {**attributes, "tensors": ",".join(present)}


def make(name: str, args: list, kwargs: dict) -> tuple[Plugin, list[torch.Tensor]]:
    tensors, fields = arrange(name, args, kwargs)
    return Plugin(Plugin.create(name, fields)), tensors


def empty_outputs(name: str, tensors: list[torch.Tensor], args: list, kwargs: dict) -> list[torch.Tensor]:
    """Outputs full of NaN, beside the inputs."""
    outputs = outputs_of(OPS[name].overload(*cast(args, device="meta"), **kwargs))
    return [torch.full(o.shape, float("nan"), dtype=o.dtype, device=tensors[0].device) for o in outputs]


def test_names():
    own = LIBRARIES["bridge"].ops
    assert set(creators()) == set(own)
    for name in own:
        assert Plugin(Plugin.create(name, {})).name() == (name, "1", "bridge")


@pytest.mark.parametrize("name", FIXED)
def test_fields_survive_a_round_trip(name):
    args, kwargs = RANDOM[name](4)
    plugin, _ = make(name, args, kwargs)
    _, fields = arrange(name, args, kwargs)
    held = plugin.serialized()
    assert set(held) - {"workspace_capability"} == set(fields)  # which is there where it was built on some GPU
    for key, value in fields.items():
        kind, data = held[key]
        if kind == 6:
            assert data.decode() == value
            continue
        if kind == 1:  # float32 values that add up to the number
            numbers = struct.unpack(f"{len(data) // 4}f", data)
            assert numbers == tuple(map(nearest, value)) if isinstance(value, list) else math.fsum(numbers) == value
            continue
        values = list(value) if isinstance(value, tuple | list) else [value]
        assert struct.unpack(f"{len(values)}q", data) == tuple(int(v) for v in values)
    assert plugin.clone().serialized() == held and plugin.attach().serialized() == held


def test_narrow_integers_are_taken():
    from bridge.core import plugin_file

    value = (ctypes.c_int32 * 2)(2, 3)
    field = plugin_file.Field(b"stride", ctypes.cast(value, ctypes.c_void_p), 5, 2)
    collection = plugin_file.Fields(1, ctypes.pointer(field))

    types = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
    this = call(creators()["deform_conv2d"], 0, ctypes.c_void_p, b"x", ctypes.byref(collection), 0, types=types)
    assert Plugin(this).serialized()["stride"] == (10, struct.pack("2q", 2, 3))


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("relu", {"slope": 0.5}, 'unknown plugin field "slope"'),
        ("relu", {"negative_slope": 1}, "negative_slope has plugin field type 10, expected FLOAT32"),
        ("rope", {"rotary_dim": [1, 2]}, "rotary_dim has 2 values, expected 1"),
        ("relu", {"negative_slope": [0.5] * 4}, "negative_slope has 4 values, expected 1"),
        ("rope", {"layout": "x" * 20000}, "layout has 20000 values, expected at most 16384"),
        ("deform_conv2d", {"stride": [1, 2, 3]}, "stride has 3 values, expected at most 2"),
    ],
)
def test_bad_fields_are_refused(name, fields, text, capfd):
    assert Plugin.create(name, fields) is None
    assert f"[bridge] plugin {name}, createPlugin: " in (error := capfd.readouterr().err) and text in error


@pytest.mark.parametrize(
    ("given", "count", "text"),
    [
        ("x,offset,wheight", 3, 'an unknown tensor "wheight"'),
        ("offset,x,weight", 3, "not in the signature's order"),
        ("x,weight,mask", 3, "the tensor offset is missing"),
        ("x,offset,weight,mask", 3, "got 3 tensors, expected x,offset,weight,mask"),
        ("", 2, "the tensor weight is missing"),
        ("", 6, "got 6 tensors, expected at most 5"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(given, count, text, capfd):
    plugin = Plugin(Plugin.create("deform_conv2d", {"tensors": given} if given else {}))
    tensors = [torch.zeros(1, 1, 1, 1)] * count
    assert plugin.configure(tensors, [torch.zeros(1)]) != 0
    assert text in capfd.readouterr().err


@pytest.mark.parametrize("name", FIXED)
def test_every_dtype_of_the_kernel_is_declared(name):
    """supportsFormatCombination: each floating dtype throughout, linear; nothing else."""
    _, args, kwargs = max(SAMPLES[name](), key=lambda sample: sum(tensor is not None for tensor in sample[1]))
    for dtype in DTYPES:
        plugin, tensors = make(name, args, with_dtype(OPS[name], kwargs, dtype))
        dtypes = [dtype if t.is_floating_point() else t.dtype for t in tensors] + [dtype] * plugin.num_outputs
        supported = all(plugin.supports(i, dtypes, len(tensors)) for i in range(len(dtypes)))
        assert supported == (dtype in FLOATING), dtype
        assert not any(plugin.supports(i, dtypes, len(tensors), CHW4) for i in range(len(dtypes)))
        if supported:
            assert plugin.output_dtypes(dtypes[: len(tensors)]) == [DTYPES[dtype]] * plugin.num_outputs


@pytest.mark.parametrize(("dtype", "format"), [(torch.float16, HWC8), (torch.bfloat16, HWC8), (torch.float32, HWC)])
def test_channels_last_is_for_tensors_that_are_taken_in_it(dtype, format):
    plugin = Plugin(Plugin.create("relu", {}))
    assert not any(plugin.supports(place, [dtype] * 2, 1, format, [(2, 8, 6, 7)] * 2) for place in (0, 1))


def test_mixed_dtypes():
    plugin, tensors = make("rope", rope_arguments(2, 3, table="ids"), {})
    half, single, ids = torch.float16, torch.float32, torch.int64
    assert plugin.supports(2, [half, half, single, single, ids, half, half], len(tensors))  # float32 tables
    assert not plugin.supports(1, [half, single, half, half, ids, half, half], len(tensors))
    assert not plugin.supports(4, [half, half, half, half, half, half, half], len(tensors))
    assert not plugin.supports(5, [half, half, half, half, ids, single, half], len(tensors))


@pytest.mark.parametrize("name", FIXED)
def test_shapes_are_checked_before_they_are_used(name, capfd):
    args, kwargs = RANDOM[name](4)
    plugin, tensors = make(name, args, kwargs)
    outputs = empty_outputs(name, tensors, args, kwargs)
    assert plugin.configure(tensors, outputs) == 0 and plugin.shape_change(tensors, outputs) == 0
    assert plugin.workspace(tensors, outputs) < 1 << 24  # of a small call
    if len(tensors) > 1:  # one alone may be taken whatever its shape
        wrong = [tensors[0], tensors[1][..., :0], *tensors[2:]]
        assert plugin.configure(wrong, outputs) != 0 and plugin.shape_change(wrong, outputs) != 0
        assert f"[bridge] plugin {name}, onShapeChange: {name}: " in capfd.readouterr().err


def test_unknown_extents_are_not_judged():
    """configurePlugin sees -1 where an extent is dynamic: it must not be taken for a number."""
    plugin = Plugin(Plugin.create("rope", {}))
    q, k, cos, sin = rope_arguments(2, 5)
    shapes = [(-1, 4, -1, 16), (-1, 2, -1, 16), (-1, 8), (-1, 8)]
    rows = [
        DynamicDesc(desc(s, torch.float32), dims(t.shape), dims(t.shape), dims(t.shape))
        for s, t in zip(shapes, (q, k, cos, sin), strict=True)
    ]
    array = (DynamicDesc * 4)(*rows)
    types = [ctypes.c_void_p, ctypes.c_int32] * 2
    assert call(plugin.build, 0, ctypes.c_int32, array, 4, (DynamicDesc * 2)(), 2, types=types) == 0


def run(
    plugin: Plugin, name: str, tensors: list[torch.Tensor], args: list, kwargs: dict, stream: Any
) -> list[torch.Tensor]:
    outputs = empty_outputs(name, tensors, args, kwargs)
    assert plugin.shape_change(tensors, outputs) == 0
    assert plugin.enqueue(tensors, outputs, stream.cuda_stream) == 0
    return outputs


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("name", FIXED)
def test_executes(name, dtype):
    stream = torch.cuda.current_stream()
    for seed in range(20):
        args, kwargs = RANDOM[name](seed)
        given, kwargs = cast(args, dtype), with_dtype(OPS[name], kwargs, dtype)
        plugin, tensors = make(name, cast(given, device="cuda"), kwargs)
        outputs = run(plugin.attach(), name, tensors, given, kwargs, stream)
        torch.cuda.synchronize()
        wide = with_dtype(OPS[name], kwargs, torch.float64)
        exact = outputs_of(OPS[name].run(*cast(given, torch.float64), **wide))
        for wanted, peer, ours in zip(exact, outputs_of(OPS[name].run(*given, **kwargs)), outputs, strict=True):
            check_error(f"{name} {dtype} {seed}", wanted, peer, ours.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("name", FIXED)
def test_two_contexts_on_two_streams(name):
    """Each context has its own clone; different shapes at once, many times over."""
    *calls, kwargs = PAIRS[name]
    given = [cast(args, device="cuda") for args in calls]
    plugin, _ = make(name, given[0], kwargs)
    contexts, streams = [plugin.attach() for _ in calls], [torch.cuda.Stream() for _ in calls]
    torch.cuda.synchronize()
    results: list[list[list[torch.Tensor]]] = [[], []]
    for _ in range(50):
        for i in (0, 1):
            with torch.cuda.stream(streams[i]):
                tensors = arrange(name, given[i], kwargs)[0]
                results[i].append(run(contexts[i], name, tensors, given[i], kwargs, streams[i]))
    torch.cuda.synchronize()
    for args, runs in zip(calls, results, strict=True):
        expected = outputs_of(OPS[name].overload(*args, **kwargs))
        for outputs in runs:
            for a, b in zip(outputs, expected, strict=True):
                torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FIXED)
def test_enqueue_is_captured_in_a_graph(name):
    """Captured with no run before it, then replayed on new data in the same memory."""
    args, _, kwargs = PAIRS[name]
    plugin, tensors = make(name, cast(args, device="cuda"), kwargs)
    outputs = empty_outputs(name, tensors, args, kwargs)
    assert plugin.shape_change(tensors, outputs) == 0
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        assert plugin.enqueue(tensors, outputs, stream.cuda_stream) == 0
    for scale in (1.0, -0.5):
        tensors[0].copy_(tensors[0] * scale if tensors[0].is_floating_point() else 255 - tensors[0])
        for output in outputs:
            output.fill_(float("nan"))
        graph.replay()
        expected = OPS[name].overload(tensors[0].cpu(), *args[1:], **kwargs)
        for a, b in zip(outputs, outputs_of(expected), strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FIXED)
def test_a_failing_enqueue_is_reported(name, capfd):
    """A dtype that no kernel has, of which no shape change told: enqueue returns an error, and claims no success."""
    args, _, kwargs = PAIRS[name]
    plugin, tensors = make(name, cast(args, device="cuda"), kwargs)
    outputs = empty_outputs(name, tensors, args, kwargs)
    assert plugin.shape_change(tensors, outputs) == 0
    expected = "float32 or float16 or bfloat16" if tensors[0].is_floating_point() else "uint8 or int8"
    tensors[0] = tensors[0].to(torch.bool)
    assert plugin.enqueue(tensors, outputs, torch.cuda.current_stream().cuda_stream) != 0
    assert f"[bridge] plugin {name}, enqueue: {name}: " in (error := capfd.readouterr().err)
    assert f"is bool, expected {expected}" in error
