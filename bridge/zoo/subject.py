"""A model under measurement: how its backends are called, compared with eager, and timed."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bridge.doors.model_file import Model
from bridge.engine.error_metric import largest_error
from bridge.engine.timing import Timing, time_loop
from bridge.zoo import memory
from bridge.zoo.entries import Entry
from bridge.zoo.measuring_lock import MeasuringLock

_CHOSEN_ALIKE = 0.9  # of a model's choice of rows
MOST_DIFFERENCE = 0.5  # as a fraction of the largest value, of one backend's results in a CUDA graph and outside
_HALVES = {torch.float16, torch.bfloat16}
Row = dict[str, Any]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Subject:
    """A model under measurement.

    program: its torch.export program, shared by the backends. used: MiB of GPU memory of the process before this
    backend, the model's weights included.
    """

    entry: Entry
    model: Model
    program: ExportedProgram
    target: str | None
    lock: MeasuringLock
    used: int | None = None

    @property
    def runs(self) -> bool:
        """Whether engines are for the GPU of this machine."""
        return torch.cuda.is_available() and self.target is None

    def call(self, function: Function) -> Any:
        """Calls a function with the example arguments."""
        return function(*self.model.args, **self.model.kwargs)

    def error(self, function: Function) -> float:
        """Largest difference from eager, as a fraction of each result's largest value."""
        difference = largest_difference(self.call(function), self.call(self.model.model), self.entry.unordered)
        torch.cuda.empty_cache()  # eager's memory does not count for this backend
        return difference

    def rounding(self) -> float:
        """As `error`, of eager itself from eager in float32 without TF32, or float64: what its dtype alone changes."""
        model, given = self.model.model, (self.model.args, self.model.kwargs)
        tensors = [*model.parameters(), *pytree.tree_leaves(given)]
        narrow = {tensor.dtype for tensor in tensors if isinstance(tensor, torch.Tensor)} & _HALVES
        wider = torch.float32 if narrow else torch.float64
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda x: x.to(wider) if x.is_floating_point() else x, given)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            exact = copy.deepcopy(model).to(wider)(*args, **kwargs)
        return largest_difference(self.call(model), exact, self.entry.unordered)

    def error_in_graph(self, function: Function) -> float:
        """As `error`, of a function that replays a CUDA graph. RuntimeError: it computes something else."""
        error = self.error(function)
        if not error <= MOST_DIFFERENCE:
            raise RuntimeError(f"its result in a CUDA graph differs by {error:.2g}: the graph lacks kernels of it")
        return error

    def timing(self, function: Function, own_weights: bool = True) -> Row:
        """The time of a call, alone on the machine, and the MiB of GPU memory that the backend took.

        own_weights: `function` has a copy of the weights. Otherwise it uses the model's, and their size is added.
        """
        with self.lock.alone():
            row = _times(time_loop(lambda: self.call(function)))
            used = memory.used()
        if used is None or self.used is None:
            return row
        shared = 0 if own_weights else _weight_bytes(self.model.model) // 2**20
        return row | {"memory_mib": used - self.used + shared}

    def captured(self, function: Function) -> Function:
        """The replay of a CUDA graph of a call, whose arguments are copied into the graph's and results overwritten.

        RuntimeError: a CUDA graph cannot hold the call.
        """
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (self.model.args, self.model.kwargs))
        static = pytree.tree_leaves((args, kwargs))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # what libraries load and choose at first cannot be captured
                function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = function(*args, **kwargs)

        def replay(*given: Any, **named: Any) -> Any:
            for target, source in zip(static, pytree.tree_leaves((given, named)), strict=True):
                if isinstance(target, torch.Tensor):
                    target.copy_(source)
            graph.replay()
            return result

        return replay


def largest_difference(actual: Any, expected: Any, unordered: bool = False) -> float:
    """Largest difference of two results, as a fraction of each tensor's largest value; NaN if a difference is NaN.

    unordered: rows along axis 1 are what a model chose among many, in any order. Each is compared with the other
    result's nearest row, and a tenth of them may have none: where two score alike, rounding chooses another one.
    """
    if not unordered:
        return largest_error(actual, expected)
    tensors, references = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    scales = [reference.abs().amax().double().clamp_min(torch.finfo(torch.float64).tiny) for reference in references]
    rows, reference_rows = (
        torch.cat([each.double().flatten(2) / scale for each, scale in zip(result, scales, strict=True)], dim=2)
        for result in (tensors, references)
    )
    distances = (rows[:, :, None] - reference_rows[:, None]).abs().amax(3)
    nearest = [distances.amin(dim) for dim in (1, 2)]
    return max((each.quantile(_CHOSEN_ALIKE, dim=1).amax().item() for each in nearest), key=lambda x: (x != x, x))


def _weight_bytes(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def _times(timing: Timing) -> Row:
    return {"us": timing.us, **{f"{name}_us": value for name, value in asdict(timing).items() if name != "us"}}
