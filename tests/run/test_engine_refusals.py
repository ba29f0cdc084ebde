"""Engines that cannot run here: the reason, and what to do."""

import types

import pytest
import torch
from four_dtypes import INPUTS, RTX, build

from bridge.core.op import OPS
from bridge.errors import EngineError, FlavourError
from bridge.tensorrt.run import engine as engine_module
from bridge.tensorrt.run.engine import Engine, check_compatible


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"flavour": "tensorrt", "tensorrt_version": "10.15.1.29"},
            "the engine was built with tensorrt 10.15.1.29 for sm86; in use here is tensorrt_rtx 1.7.1.116, "
            "which cannot read it: compile the model again here, or install tensorrt 10.15.1.29",
        ),
        (
            {"tensorrt_version": "1.4.0.76"},
            "the engine was built with tensorrt_rtx 1.4.0.76 for sm86; in use here is version 1.7.1.116",
        ),
        ({"plugins": {"none": "1"}}, f"the engine needs plugin none version 1; this bridge has {min(OPS)} 1, "),
        ({"plugins": {"relu": "2"}}, f"the engine needs plugin relu version 2; this bridge has {min(OPS)} 1, "),
    ],
)
def test_engines_from_elsewhere(make_engine_file, changes, words):
    with pytest.raises(EngineError) as caught:
        check_compatible(make_engine_file(**changes), RTX)
    assert words in str(caught.value)


def test_an_engine_of_another_build_number_is_left_to_tensorrt(make_engine_file):
    check_compatible(make_engine_file(tensorrt_version="1.7.0.5"), RTX)


def test_no_tensorrt(make_engine_file, monkeypatch):
    def none():
        raise FlavourError("no TensorRT is installed")

    monkeypatch.setattr(engine_module, "detect", none)
    with pytest.raises(FlavourError, match="no TensorRT is installed"):
        Engine(make_engine_file())


def test_no_gpu(make_engine_file, monkeypatch):
    monkeypatch.setattr(engine_module, "detect", lambda: RTX)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"no CUDA GPU here to run on; the engine was built with tensorrt_rtx .*sm86"):
        Engine(make_engine_file())


def test_devices_that_are_none(make_engine_file, monkeypatch):
    monkeypatch.setattr(engine_module, "detect", lambda: RTX)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineError, match="runs on a CUDA GPU, not on cpu"):
        Engine(make_engine_file(), "cpu")
    with pytest.raises(EngineError, match="there is no cuda:1: 1 GPUs are visible"):
        Engine(make_engine_file(), 1)


def fake_flavour(engine):
    """A flavour whose TensorRT reports one error and then deserialises to `engine`."""

    class Logger:
        Severity = types.SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, content):
            self.logger.log(1, "the plan is for another device")
            return engine

    module = types.SimpleNamespace(ILogger=Logger, Runtime=Runtime, TensorLocation=types.SimpleNamespace(DEVICE=0))

    class Fake:
        name, version = "tensorrt_rtx", "1.7.1.116"

        def trt(self):
            return module

    return Fake()


def test_an_engine_that_tensorrt_does_not_load_names_target_and_gpu(make_engine_file, monkeypatch):
    monkeypatch.setattr(engine_module.gpu, "current_target", lambda: "sm90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    with pytest.raises(EngineError) as caught:
        engine_module._deserialize(make_engine_file(plugins={}), fake_flavour(None))
    assert str(caught.value) == (
        "tensorrt_rtx 1.7.1.116 did not load the engine on Some GPU (sm90); it was built with tensorrt_rtx 1.7.1.116 "
        "for sm86; compile the model with target='sm90'\nTensorRT says:\n  the plan is for another device"
    )


class FakeEngine:
    """What _check_tensors asks an engine."""

    num_io_tensors = 1
    location = 0

    def get_tensor_name(self, index):
        return "x"

    def get_tensor_dtype(self, name):
        return types.SimpleNamespace(name="HALF")

    def get_tensor_location(self, name):
        return self.location


def test_an_engine_that_its_file_does_not_describe(make_engine_file):
    file = make_engine_file(inputs=INPUTS[:1], outputs=(), output_map=[])
    engine_module._check_tensors(file, fake_flavour(None), FakeEngine())
    with pytest.raises(EngineError, match=r"the engine's tensors are {'x': 'float16'}, but its file describes .*int64"):
        engine_module._check_tensors(make_engine_file(), fake_flavour(None), FakeEngine())


def test_an_engine_with_a_tensor_on_the_host(make_engine_file):
    native = FakeEngine()
    native.location = 1
    with pytest.raises(EngineError, match="the engine has x in CPU memory"):
        engine_module._check_tensors(
            make_engine_file(inputs=INPUTS[:1], outputs=(), output_map=[]), fake_flavour(None), native
        )


def test_a_real_engine_without_a_gpu(make_engine_file, tmp_path):
    """Built for another target, saved and loaded; it stops only at the GPU that is not there."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    file = make_engine_file(**build("sm86"))
    file.save(tmp_path / "a.engine")
    loaded = type(file).load(tmp_path / "a.engine")
    assert loaded == file
    with pytest.raises(EngineError, match="there is no CUDA GPU here to run on"):
        Engine(loaded)


# On a GPU


@pytest.mark.gpu(engines=True)
def test_bytes_that_are_no_engine(make_engine_file):
    file = make_engine_file(**build() | {"engine": bytes(range(256)) * 4})
    with pytest.raises(EngineError, match=r"did not load the engine on .*\(sm\d+\)(.|\n)*TensorRT says:"):
        Engine(file)
