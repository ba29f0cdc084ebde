"""The time of each layer of an engine, from TensorRT's profiler."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.tensorrt.run.engine import Engine

_WARM_UP = 5


@dataclass(frozen=True)
class Layer:
    """A layer as TensorRT fused it. op: of the plugin in it, or None. us: of one run."""

    name: str
    op: str | None
    us: float


def trace(engine: Engine, inputs: Sequence[Tensor], runs: int = 20) -> list[Layer]:
    """The layers in TensorRT's order, mean of `runs`. Empty where TensorRT reports none."""
    profiler = _profiler(engine.flavour.trt())
    context = engine.new_context(for_capture=True)  # as engines are timed
    for _ in range(_WARM_UP):
        context(*inputs)
    torch.cuda.synchronize()
    context.native.profiler = profiler
    for _ in range(runs):
        context(*inputs)
    torch.cuda.synchronize()
    plugins = {layer["name"]: layer["op"] for layer in engine.file.layers if layer.get("op")}
    del context  # before the profiler that it reports to
    return [Layer(name, _op(name, plugins), 1e3 * ms / runs) for name, ms in profiler.ms.items()]


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):
        """Adds up what TensorRT reports of each layer."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT for every layer of a run."""
            self.ms[layer_name] = self.ms.get(layer_name, 0.0) + ms

    return Profiler()


def _op(name: str, plugins: dict[str, str]) -> str | None:
    """The op of the plugin layer in a name, which may join the names of fused layers."""
    return plugins.get(name) or next((op for layer, op in plugins.items() if layer in name), None)
