"""Outputs whose shape is found in a run: the memory that TensorRT asks for, and the tensors made of it."""

import types

import pytest
import torch

from bridge.errors import EngineError
from bridge.tensorrt.run.context import Context
from bridge.tensorrt.run.output_allocator import DynamicOutput


@pytest.fixture
def trt():
    module = types.ModuleType("trt")
    module.IOutputAllocator = type("Allocator", (), {})
    return module


@pytest.fixture
def found(trt):
    return lambda dtype, shape: DynamicOutput(trt, dtype, shape, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.int64])
def test_memory_becomes_a_tensor_of_the_shape_that_is_found(found, dtype):
    output = found(dtype, (-1, 4))
    results = []
    for rows in (3, 1):
        address = output.allocator.reallocate_output_async("y", 0, 5 * 4 * dtype.itemsize, 256, 0)
        output.allocator.notify_shape("y", (rows, 4))
        results.append(output.take())
        assert results[-1].shape == (rows, 4) and results[-1].dtype == dtype and results[-1].data_ptr() == address
    assert results[0].data_ptr() != results[1].data_ptr(), "a result is the caller's"


def test_outputs_without_elements_or_without_a_run(found):
    output = found(torch.float32, (-1, 4))
    assert output.take().shape == (0, 4)
    output.allocator.reallocate_output("y", 0, 0, 256)
    output.allocator.notify_shape("y", (0, 4))
    assert output.take().shape == (0, 4)


def test_memory_that_is_not_there_is_told(found, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    output = found(torch.float32, (-1,))
    monkeypatch.setattr(torch, "empty", fail)
    assert output.allocator.reallocate_output_async("y", 0, 16, 256, 0) == 0
    assert isinstance(output.error, torch.OutOfMemoryError)


def test_a_context_makes_room_for_outputs_whose_shape_is_known_alone(trt):
    allocators, shapes = {}, {"kept": (-1, 4), "copy": (3,)}
    context = Context.__new__(Context)
    context.native = types.SimpleNamespace(
        active_optimization_profile=0,
        set_input_shape=lambda name, shape: True,
        get_tensor_shape=shapes.get,
        set_output_allocator=lambda name, allocator: allocators.setdefault(name, allocator) is allocator,
    )
    outputs = [types.SimpleNamespace(name=name) for name in shapes]
    flavour = types.SimpleNamespace(trt=lambda: trt, traits=types.SimpleNamespace(compiles_kernels=True))
    file = types.SimpleNamespace(outputs=outputs)
    context._engine = types.SimpleNamespace(flavour=flavour, file=file, profile_for=lambda shapes: 0)
    context._names, context._dtypes = ["x", *shapes], [torch.float16, torch.float32]
    context._device, context._static_outputs = torch.device("cpu"), False
    context._reset()
    context.check_shapes_known()
    context._set_shapes((torch.Size([3]),))
    assert list(allocators) == ["kept"] and context._has_work
    kept, copy = context._outputs_for(captured=False)
    assert kept is None and copy.shape == (3,) and copy.dtype == torch.float32
    with pytest.raises(EngineError, match="a CUDA graph cannot hold this engine: the shape of its output kept depends"):
        context.check_shapes_known()
    shapes["kept"] = (2, 4)
    context._set_shapes((torch.Size([2]),))
    context.check_shapes_known()
