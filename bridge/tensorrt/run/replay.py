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

GRAPHS = 16  # for the most recently used shapes
_CAPTURE = threading.Lock()


class GraphReplays:
    """An engine for one thread at a time, with a CUDA graph for each combination of input shapes.

    A call copies its inputs into the graph's and replays it. static_outputs: calls return the graph's own outputs,
    not copies; the next call with the same shapes overwrites them.
    EngineError: the caller is capturing a CUDA graph.
    """

    def __init__(self, engine: "Engine", static_outputs: bool = False) -> None:
        self._engine = engine
        self._device = engine.device
        self._check = InputCheck(engine.file.inputs, engine.device)
        self._static_outputs = static_outputs
        self._order = streams.StreamOrder(engine.device)
        self._graphs: OrderedDict[tuple[torch.Size, ...], _CapturedGraph] = OrderedDict()
        self._last: tuple[tuple[torch.Size, ...] | None, _CapturedGraph | None] = (None, None)
        self._capture_stream = streams.CaptureStream(engine.device)
        with torch.cuda.device(self._device):
            self._pool = torch.cuda.graph_pool_handle()  # shared by all graphs, with their scratch memory

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
        last_shapes, graph = self._last
        if graph is None or shapes is not last_shapes:
            graph = self._graph_for(shapes, inputs)
            self._last = (shapes, graph)
        self._order.enter(streams.current_handle(self._device), graph.memory)
        graph.replay(inputs)
        return graph.outputs if self._static_outputs else tuple([output.clone() for output in graph.outputs])

    def _graph_for(self, shapes: tuple[torch.Size, ...], inputs: Sequence[Tensor]) -> "_CapturedGraph":
        graph = self._graphs.get(shapes)
        if graph is None:
            if len(self._graphs) == GRAPHS:
                self._graphs.popitem(last=False)
            graph = self._graphs[shapes] = _CapturedGraph(self._engine, inputs, self._pool, self._capture_stream.stream)
        self._graphs.move_to_end(shapes)
        return graph


class _CapturedGraph:
    """A CUDA graph of an engine for one combination of input shapes, with its input and output tensors.

    It has its own execution context: TensorRT allows one captured graph per context.
    """

    def __init__(self, engine: "Engine", inputs: Sequence[Tensor], pool: Any, stream: torch.cuda.Stream) -> None:
        self._context = engine.new_context(for_capture=True)
        self._inputs = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(engine.device))
        with torch.cuda.stream(stream):
            self._copy_inputs(inputs)
            self.outputs = self._context(*self._inputs)  # compiles and loads kernels, which a capture does not allow
            stream.synchronize()
        self._context.check_shapes_known()
        self._empty = all(output.numel() == 0 for output in self.outputs)
        if self._empty:
            return
        self._context.check_capturable(stream.cuda_stream)
        # thread_local: other threads may allocate memory meanwhile. The lock: torch.cuda.graph synchronises the device
        # before it captures, which would end a capture of another thread.
        with _CAPTURE, torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.outputs = self._context(*self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> None:
        """Enqueues a run on the current stream."""
        if not self._empty:
            self._copy_inputs(inputs)
            self._graph.replay()

    def memory(self) -> list[Tensor]:
        """The tensors that a run reads and writes."""
        return [*self._inputs, *self.outputs]

    def _copy_inputs(self, inputs: Sequence[Tensor]) -> None:
        if len(inputs) == 1:
            self._inputs[0].copy_(inputs[0], non_blocking=True)
        elif inputs:
            torch._foreach_copy_(self._inputs, list(inputs), non_blocking=True)
