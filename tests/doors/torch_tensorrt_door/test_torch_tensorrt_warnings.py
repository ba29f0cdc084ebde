"""What is told that torch_tensorrt passes over: ops left in PyTorch, failures, layers that no engine has."""

import logging

import door_models
import pytest
import torch
from door_models import Leaky, needs_torch_tensorrt

from bridge.doors import torch_tensorrt_door as door
from bridge.errors import BuildError
from bridge.tensorrt.guest import engine_records


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
    assert f"{door_models.__file__}:" in record.getMessage()


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
    assert "relu (bridge.relu.default)" in record.getMessage() and f"{door_models.__file__}:" in record.getMessage()
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


def test_inventories_are_bounded(monkeypatch):
    monkeypatch.setattr(engine_records, "_known", type(engine_records._known)())
    for index in range(engine_records._MAX_ENGINES + 3):
        engine_records.set_layers([{"name": str(index)}])
        engine_records.record_engine(bytes([index]))
    assert door.layers_of(bytes([2])) is None and door.layers_of(bytes([3])) == [{"name": "3"}]
    engine_records.set_layers(None)
    engine_records.record_engine(b"from a cache")
    assert door.layers_of(b"from a cache") is None
