"""Calls of an engine as replays of CUDA graphs."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridge.errors import EngineError
from bridge.tensorrt.run import streams
from bridge.tensorrt.run.input_check import InputCheck

if TYPE_CHECKING:
    from bridge.tensorrt.run.engine import Engine

GRAPHS = 16  # kept: those of the shapes used last
_CAPTURE = threading.Lock()


class Replays:
    """An engine for one thread at a time, called like it: each combination of input shapes has a CUDA graph.

    A call copies its inputs into those of the graph and replays it. static_outputs: it returns the graph's outputs,
    which the next call with these shapes overwrites, instead of copies. Under a capture of the caller's it cannot run:
    EngineError says so.
    """

    def __init__(self, engine: "Engine", static_outputs: bool = False) -> None:
        self._engine = engine
        self._device = engine.device
        self._check = InputCheck(engine.file.inputs, engine.device)
        self._static_outputs = static_outputs
        self._order = streams.Order(engine.device)
        self._graphs: OrderedDict[tuple[torch.Size, ...], _Graph] = OrderedDict()
        self._last: tuple[tuple[torch.Size, ...] | None, _Graph | None] = (None, None)
        self._own = streams.Own(engine.device)
        with torch.cuda.device(self._device):
            self._pool = torch.cuda.graph_pool_handle()  # of all graphs: their scratch memory is the same

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, as `Engine.__call__` has them."""
        if torch.cuda.current_device() == self._device.index:
            return self._call(inputs)
        with torch.cuda.device(self._device):
            return self._call(inputs)

    def _call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if torch.cuda.is_current_stream_capturing():
            raise EngineError(
                "this engine replays CUDA graphs of its own and cannot be captured into another one: compile or load it"
                " with cuda_graph=False for that"
            )
        shapes = self._check.check(inputs)
        seen, graph = self._last
        if graph is None or shapes is not seen:
            graph = self._graph(shapes, inputs)
            self._last = (shapes, graph)
        self._order.enter(streams.current(self._device), graph.memory)
        graph.replay(inputs)
        return graph.outputs if self._static_outputs else tuple([output.clone() for output in graph.outputs])

    def _graph(self, shapes: tuple[torch.Size, ...], inputs: Sequence[Tensor]) -> "_Graph":
        graph = self._graphs.get(shapes)
        if graph is None:
            if len(self._graphs) == GRAPHS:
                self._graphs.popitem(last=False)
            graph = self._graphs[shapes] = _Graph(self._engine, inputs, self._pool, self._own.stream)
        self._graphs.move_to_end(shapes)
        return graph


class _Graph:
    """A CUDA graph of an engine for inputs of certain shapes, with what it reads from and writes to.

    It has an execution context of its own: TensorRT allows one captured graph for each.
    """

    def __init__(self, engine: "Engine", inputs: Sequence[Tensor], pool: Any, stream: torch.cuda.Stream) -> None:
        self._context = engine.new_context(for_capture=True)
        self._inputs = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(engine.device))
        with torch.cuda.stream(stream):
            self._fill(inputs)
            self.outputs = self._context(*self._inputs)  # compiles and loads kernels, which a capture cannot
            stream.synchronize()
        self._context.check_shapes_known()
        self._empty = all(output.numel() == 0 for output in self.outputs)
        if self._empty:
            return
        self._context.check_capturable(stream.cuda_stream)
        # Of this thread alone: others may allocate memory meanwhile. But one at a time: torch.cuda.graph waits for the
        # whole device before it captures, and that ends a capture of another thread.
        with _CAPTURE, torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.outputs = self._context(*self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> None:
        """Enqueues a run on the current stream."""
        if not self._empty:
            self._fill(inputs)
            self._graph.replay()

    def memory(self) -> list[Tensor]:
        """What a run reads and writes."""
        return [*self._inputs, *self.outputs]

    def _fill(self, inputs: Sequence[Tensor]) -> None:
        if len(inputs) == 1:
            self._inputs[0].copy_(inputs[0], non_blocking=True)
        elif inputs:
            torch._foreach_copy_(self._inputs, list(inputs), non_blocking=True)
