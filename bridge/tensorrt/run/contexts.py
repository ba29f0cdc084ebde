"""TensorRT's execution contexts of one engine."""

from typing import Any

from bridge.errors import EngineError
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import describe_errors


class Contexts:
    """Makes execution contexts whose scratch memory the caller provides.

    TensorRT-RTX compiles kernels for the GPU when a context first needs them. The contexts of an engine share them.
    """

    def __init__(self, flavour: Flavour, engine: Any) -> None:
        self._flavour = flavour
        self._engine = engine
        self._kernels: Any = None

    def make(self, for_capture: bool = False) -> Any:
        """A further one. for_capture: with its final kernels from the start, since a graph keeps those that it saw.

        EngineError: TensorRT makes none.
        """
        trt = self._flavour.trt()
        memory = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._flavour.kind.compiles_kernels:
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
            raise EngineError(f"TensorRT made no execution context{describe_errors(self._flavour)}")
        return context
