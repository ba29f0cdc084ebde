"""Creates TensorRT's execution contexts of an engine."""

from typing import Any

from bridge.errors import EngineError
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import errors_text


class ContextFactory:
    """Creates execution contexts of one engine; the caller provides their scratch memory.

    TensorRT-RTX compiles kernels when a context first needs them; the contexts of an engine share them.
    """

    def __init__(self, flavour: Flavour, engine: Any) -> None:
        self._flavour = flavour
        self._engine = engine
        self._kernels: Any = None

    def make(self, for_capture: bool = False) -> Any:
        """A new context. for_capture: with final kernels from the start, because a CUDA graph keeps those it captured.

        EngineError: TensorRT creates none.
        """
        trt = self._flavour.trt()
        memory = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._flavour.traits.compiles_kernels:
            context = self._engine.create_execution_context(memory)
        else:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(memory)
            if self._kernels is None:
                self._kernels = config.create_runtime_cache()
            config.set_runtime_cache(self._kernels)
            if for_capture:
                eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self._engine.create_execution_context(config)
        if context is None:
            raise EngineError(f"TensorRT made no execution context{errors_text(self._flavour)}")
        return context
