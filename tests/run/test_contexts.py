"""Execution contexts: what TensorRT is asked for."""

import types

import pytest

from bridge.errors import EngineError
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.run.contexts import ContextFactory


class FakeNative:
    """TensorRT's engine: it notes how contexts are asked for."""

    def __init__(self, context="a context"):
        self.asked, self.caches, self.context = [], 0, context

    def create_runtime_config(self):
        def create_runtime_cache():
            self.caches += 1
            return f"cache {self.caches}"

        config = types.SimpleNamespace(create_runtime_cache=create_runtime_cache, kernels=None)
        config.set_runtime_cache = lambda cache: setattr(config, "kernels", cache)
        config.set_execution_context_allocation_strategy = lambda memory: setattr(config, "memory", memory)
        return config

    def create_execution_context(self, how):
        self.asked.append(how)
        return self.context


def fake_flavour(name):
    module = types.SimpleNamespace(
        ExecutionContextAllocationStrategy=types.SimpleNamespace(USER_MANAGED="ours"),
        DynamicShapesKernelSpecializationStrategy=types.SimpleNamespace(EAGER="eager"),
    )

    class Fake(Flavour):
        def trt(self):
            return module

    return Fake(name, "1.7.1.116", None)


def test_contexts_on_rtx_share_the_kernels_that_it_compiles():
    native = FakeNative()
    contexts = ContextFactory(fake_flavour("tensorrt_rtx"), native)
    for for_capture in (False, True, False):
        assert contexts.make(for_capture) == "a context"
    assert [(config.kernels, config.memory) for config in native.asked] == [("cache 1", "ours")] * 3
    assert [getattr(c, "dynamic_shapes_kernel_specialization_strategy", None) for c in native.asked] == [
        None,
        "eager",
        None,
    ]


def test_contexts_of_standard_tensorrt():
    native = FakeNative()
    ContextFactory(fake_flavour("tensorrt"), native).make()
    assert native.asked == ["ours"]


def test_no_context(monkeypatch):
    monkeypatch.setattr("bridge.tensorrt.run.contexts.errors_text", lambda flavour: "\nTensorRT says:\n  no memory")
    with pytest.raises(EngineError, match="made no execution context\nTensorRT says:\n  no memory"):
        ContextFactory(fake_flavour("tensorrt"), FakeNative(context=None)).make()
