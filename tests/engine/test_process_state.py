"""What of the process an engine's key covers: others' converters, decompositions and passes, switches, variables."""

import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from oracle import interpreted
from torch import nn

import bridge
from bridge.engine import code_key
from bridge.engine.cache_key import _canonical_text
from bridge.engine.code_key import CodeText, NoKeyError
from bridge.engine.process_state import process_state
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.network.op_converter import own_conversion

SINH, DIGAMMA = torch.ops.aten.sinh.default, torch.ops.aten.digamma.default
EMPTY = torch.fx.Graph()


@pytest.fixture
def converting():
    pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
    with gpu.without_gpu(), own_conversion(detect()):
        yield


@contextlib.contextmanager
def converter(function, target=SINH, **settings):
    """A user's, as it stands in torch_tensorrt's table."""
    from torch_tensorrt.dynamo.conversion import ConverterPriority, dynamo_tensorrt_converter
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS as table

    before = list(table.get(target, []))
    settings = {"supports_dynamic_shapes": True, "priority": ConverterPriority.HIGH, **settings}
    dynamo_tensorrt_converter(target, **settings)(function)
    try:
        yield
    finally:
        table[target] = before


def module(tmp_path, text, name="acme_converters"):
    """A module of the user's, as its text is now: Python takes cached bytecode for a file changed within its second."""
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def key_with(function, **settings):
    with converter(function, **settings):
        return process_state(EMPTY)


CODE = """
import acme_helper
from torch_tensorrt.dynamo.conversion import impl
SCALE = {scale}
class Settings:
    factor = {factor}
    def twice(self): return {twice} * self.factor
settings = Settings()
def helper(x): return x * SCALE
def convert(ctx, target, args, kwargs, name, power={power}):
    def inner(y): return helper(y) ** power + {constant}
    return [inner(args[0]), acme_helper.bias, settings.twice()]
"""
AS_IS = {"scale": 2, "factor": 1.5, "twice": 2, "power": 3, "constant": 4}


@pytest.mark.parametrize("changed", [None, *AS_IS, "bias"])
def test_what_a_converter_refers_to(converting, tmp_path, changed):
    def of(values, bias):
        module(tmp_path, f"bias = {bias}\nunused = {bias + 1}\n", "acme_helper")
        return key_with(module(tmp_path, CODE.format(**values)).convert)

    before = of(AS_IS, 1)
    assert before != process_state(EMPTY)
    after = of(AS_IS if changed in (None, "bias") else AS_IS | {changed: 7}, 5 if changed == "bias" else 1)
    assert (after == before) == (changed is None)


def test_how_a_converter_is_registered(converting):
    from torch_tensorrt.dynamo.conversion import ConverterPriority

    def convert(ctx, target, args, kwargs, name):
        return args[0]

    def partial(number):
        return functools.partial(convert, name=number)

    keys = [
        key_with(convert),
        key_with(convert, capability_validator=lambda node, settings: True),
        key_with(convert, capability_validator=lambda node, settings: False),
        key_with(convert, supports_dynamic_shapes=False),
        key_with(convert, target=torch.ops.aten.cosh.default),
        key_with(partial(1)),
        key_with(partial(2)),
        key_with(torch.no_grad()(convert)),
        key_with(convert, target=torch.ops.aten.relu.default, priority=ConverterPriority.HIGH),
        key_with(convert, target=torch.ops.aten.relu.default, priority=ConverterPriority.STANDARD),
        process_state(EMPTY),
    ]
    assert len(set(map(str, keys))) == len(keys)


def test_what_cannot_be_spelt_is_named(converting):
    lock = threading.Lock()

    def convert(ctx, target, args, kwargs, name):
        with lock:
            return args[0]

    with pytest.raises(NoKeyError, match=r"the converter of aten\.sinh\.default: <unlocked _thread.lock"):
        key_with(convert)


def test_decompositions_and_passes(converting, monkeypatch):
    from torch_tensorrt.dynamo.lowering import ATEN_POST_LOWERING_PASSES
    from torch_tensorrt.dynamo.lowering._decompositions import TORCH_TRT_DECOMPOSITIONS

    keys = [process_state(EMPTY)]
    for scale in (2, 3):
        monkeypatch.setitem(TORCH_TRT_DECOMPOSITIONS, DIGAMMA, lambda x, scale=scale: x * scale)
        keys.append(process_state(EMPTY))
    for name in ("a", "b"):
        passes = [*ATEN_POST_LOWERING_PASSES.passes, functools.partial(print, name)]
        monkeypatch.setattr(ATEN_POST_LOWERING_PASSES, "passes", passes)
        keys.append(process_state(EMPTY))
    monkeypatch.setattr(ATEN_POST_LOWERING_PASSES, "passes", passes[:-3])
    keys.append(process_state(EMPTY))
    assert len(set(map(str, keys))) == len(keys)


def test_switches_and_variables(converting, monkeypatch):
    before = process_state(EMPTY)
    monkeypatch.setenv("PATH", "/somewhere")
    assert process_state(EMPTY) == before
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    keys = [before, process_state(EMPTY)]
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        keys.append(process_state(EMPTY))
    finally:
        torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(True)
    try:
        keys.append(process_state(EMPTY))
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.autocast("cpu", torch.bfloat16):
        keys.append(process_state(EMPTY))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        keys.append(process_state(EMPTY))
    assert len(set(map(str, keys))) == len(keys)


def test_operators_that_the_dispatcher_takes_apart(converting):
    library = torch.library.Library("acme_surroundings", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeImplicitAutograd")
    library.define("opaque(Tensor x) -> Tensor")
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.ops.acme_surroundings.opaque.default, (x,))
    process_state(graph)
    graph.call_function(torch.ops.acme_surroundings.twice.default, (x,))
    with pytest.raises(NoKeyError, match=r"acme_surroundings\.twice\.default is made of other operators"):
        process_state(graph)


def test_text_is_the_same_in_every_process(tmp_path):
    """Whatever hashes strings have, and whether constants are shared."""
    text = "A = {'x', 'yy', 'zzz'}\nB = (1, 2)\ndef f(x):\n    return x in A, B, (1, 2)\n"
    here = CodeText().of(module(tmp_path, text, "acme_text").f)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import acme_text;"
    code += "from bridge.engine.code_key import CodeText; print(CodeText().of(acme_text.f))"
    changed = os.environ | {"PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=changed)
    assert there.stdout.strip() == here and "function<f" in here, there.stderr


def test_code_that_refers_to_itself_and_to_much(monkeypatch):
    def first():
        return second(), numbers

    def second():
        return first()

    numbers = [1.5, float("nan"), {"a": torch.ones(2), "b": torch.float16}, {3, 1}]
    numbers.append(numbers)
    text = CodeText().of(first)
    assert text == CodeText().of(first) and "again:" in text
    numbers[2]["a"] = torch.zeros(2)
    assert CodeText().of(first) != text
    monkeypatch.setattr(code_key, "_MOST_OBJECTS", 3)
    with pytest.raises(NoKeyError, match="more than 3 objects"):
        CodeText().of(first)


def test_lists_and_tuples_have_their_own_brackets():
    assert _canonical_text([1, (2, None), []]) == "[int:1, (int:2, NoneType:None), []]"


class Sinh(nn.Module):
    def forward(self, x):
        return x.sinh() + 1


def scaled(number):
    def convert(ctx, target, args, kwargs, name):
        import numpy
        from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

        factor = get_trt_tensor(ctx, numpy.full((1, 1), number, numpy.float32), f"{name}_factor")
        product = detect().trt().ElementWiseOperation.PROD
        return ctx.net.add_elementwise(args[0], factor, product).get_output(0)

    return convert


def test_a_changed_converter_is_another_engine(caplog):
    pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
    with gpu.without_gpu():
        detect().torch_tensorrt()
    x, results, cached = torch.randn(2, 3), [], []
    with interpreted():
        for number in (2.0, 3.0, 2.0):
            with converter(scaled(number)):
                compiled = bridge.compile(Sinh().eval(), (x,), target="sm86")
            results.append(compiled(x))
            cached.append(compiled.from_cache)
        lock = threading.Lock()
        for _ in range(2):
            with converter(lambda *args: scaled(5.0)(*args[:5]) if lock else None), caplog.at_level("INFO", "bridge"):
                compiled = bridge.compile(Sinh().eval(), (x,), target="sm86")
            torch.testing.assert_close(compiled(x), 5 * x + 1)
            assert not compiled.from_cache
    assert cached == [False, False, True]
    for found, number in zip(results, (2, 3, 2), strict=True):
        torch.testing.assert_close(found, number * x + 1)
    assert "not cached: the converter of aten.sinh.default" in caplog.text
