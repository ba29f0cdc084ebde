"""Measures one model: its engine, and on a GPU its results, times and memory.

It is compared with eager, Inductor, torch_tensorrt alone, and an engine without bridge's kernels.
"""

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

import bridge
from bridge.base.log import logger
from bridge.config import Config
from bridge.doors import model_file
from bridge.doors.compiler import capture
from bridge.doors.model_file import Model
from bridge.doors.session import Session
from bridge.doors.torch_tensorrt_door import engines_of
from bridge.engine.error_metric import largest_error
from bridge.engine.timing import Timing, time_loop
from bridge.graph import dynamo
from bridge.graph.capture import export
from bridge.zoo import memory
from bridge.zoo.entries import Entry
from bridge.zoo.measuring_lock import MeasuringLock
from bridge.zoo.table import BACKENDS

Row = dict[str, Any]


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

    def call(self, function: Callable[..., Any]) -> Any:
        """Calls a function with the example arguments."""
        return function(*self.model.args, **self.model.kwargs)

    def error(self, function: Callable[..., Any]) -> float:
        """Largest difference from eager, as a fraction of each result's largest value."""
        difference = largest_difference(self.call(function), self.call(self.model.model), self.entry.unordered)
        torch.cuda.empty_cache()  # eager's memory does not count for this backend
        return difference

    def timing(self, function: Callable[..., Any], own_weights: bool = True) -> Row:
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


@torch.no_grad()
def measure(
    entry: Entry,
    argv: Sequence[str],
    target: str | None,
    keep: Callable[[Row], None],
    lock: MeasuringLock | None = None,
    backends: Sequence[str] = tuple(BACKENDS),
) -> Row:
    """The results of one model, made for the flags `argv`, as JSON values. `keep` gets the row so far.

    backends: of table.BACKENDS. "native" is skipped where bridge was measured and its engine has no plugins. A backend
    that fails has the reason under "failed". Errors of the script and of torch.export are raised.
    """
    lock = lock or MeasuringLock()
    with lock.working():
        model = _on_target(model_file.load(str(entry.path), list(argv)), target)
        row: Row = {"model": entry.name, "about": entry.about, "argv": list(argv), **_facts(model), "ways": {}}
        keep(row)
        with Session.of(Config(target=target)).converting():
            program = export(model.model, model.args, model.kwargs, model.dynamic_shapes)
    subject = Subject(entry, model, program, target, lock)
    for name, measure_backend in _MEASURE_FUNCTIONS.items():
        has_plugins = row["ways"].get("bridge", {"plugins": True}).get("plugins")
        if name in backends and (name == "bridge" or (subject.runs and (name != "native" or has_plugins))):
            row["ways"][name] = {"running": True}
            keep(row)
            row["ways"][name] = _result_or_failure(
                measure_backend, replace(subject, used=memory.used() if subject.runs else None)
            )
            keep(row)
    return row


def largest_difference(actual: Any, expected: Any, unordered: bool = False) -> float:
    """Largest difference of two results, as a fraction of each tensor's largest value; NaN if a difference is NaN.

    unordered: rows along axis 1 may come in any order; each column is sorted first.
    """
    if unordered:
        actual, expected = (pytree.tree_map_only(torch.Tensor, _sorted, result) for result in (actual, expected))
    return largest_error(actual, expected)


def _sorted(x: torch.Tensor) -> torch.Tensor:
    return x.sort(dim=1).values


def _on_target(model: Model, target: str | None) -> Model:
    """The model on the GPU, if engines are for it."""
    if target is not None or not torch.cuda.is_available():
        return model
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), (model.args, model.kwargs))
    return Model(model.model.cuda(), args, kwargs, model.dynamic_shapes)


def _weight_bytes(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def _facts(model: Model) -> Row:
    parameters = list(model.model.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "inputs": [list(tensor.shape) for tensor in pytree.tree_leaves((model.args, model.kwargs))],
    }


def _result_or_failure(measure_backend: Callable[..., Row], *args: Any) -> Row:
    try:
        return measure_backend(*args)
    except Exception as error:  # of any kind: a failure is a result, and the other backends are measured all the same
        logger.info("%s failed", measure_backend.__name__.strip("_"), exc_info=True)
        return {"failed": first_line(error)}
    finally:
        if torch.cuda.is_available():  # the memory of what failed counts for no other backend
            gc.collect()
            torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """An error in one line, with paths relative to the current folder."""
    lines = [line.strip() for line in str(error).replace(f"{Path.cwd()}{os.sep}", "").splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


# One function per backend


def _bridge(subject: Subject) -> Row:
    with subject.lock.working():
        start = time.monotonic()
        session = Session.of(Config(target=subject.target, cache=False, progress=False))
        with session.converting():  # as bridge.compile does
            captured = capture(session, subject.program, (), None, None)
            compiled = captured.compile(session)
        seconds = time.monotonic() - start
        before, after = (program.module(check_guards=False) for program in (subject.program, captured.program))
        row: Row = {
            "graph_error": largest_difference(subject.call(after), subject.call(before), subject.entry.unordered),
            "seconds": seconds,
            "engines": 1,
            "graph_breaks": 0,
            "rewritten": sum(outcome.replaced for outcome in captured.outcomes),
            "plugins": dict(compiled.plugin_counts()),
            "layers": len(compiled.layers),
            "bytes": len(compiled.engine),
            "target": compiled.file.target,
            "tensorrt": f"{compiled.file.flavour} {compiled.file.tensorrt_version}",
        }
        if not subject.runs:
            return row
        row["error"] = subject.error(compiled)
    return row | subject.timing(compiled) | {"cuda_graph": _result_or_failure(_with_cuda_graph, subject, compiled)}


def _with_cuda_graph(subject: Subject, compiled: bridge.CompiledModule) -> Row:
    replayed = bridge.CompiledModule(compiled.file, cuda_graph=True, static_outputs=True)
    with subject.lock.working():
        subject.call(replayed)
    return subject.timing(replayed)


def _native(subject: Subject) -> Row:
    """One engine without bridge's kernels: no passes, and ops as TensorRT's own layers."""
    with subject.lock.working():
        start = time.monotonic()
        compiled = bridge.compile(subject.program, passes=False, lowering="native", cache=False, progress=False)
        row: Row = {"seconds": time.monotonic() - start, "engines": 1, "layers": len(compiled.layers)}
        row["error"] = subject.error(compiled)
    return row | subject.timing(compiled)


def _eager(subject: Subject) -> Row:
    return subject.timing(subject.model.model, own_weights=False)


def _inductor(subject: Subject) -> Row:
    """torch.compile with its defaults, with PyTorch's own count of graph breaks."""
    with subject.lock.working(), dynamo.counting_graph_breaks() as graph_breaks:
        start = time.monotonic()
        compiled = torch.compile(subject.model.model)
        row: Row = {"error": subject.error(compiled), "seconds": time.monotonic() - start}
        row["graph_breaks"] = sum(graph_breaks.values())
    return row | subject.timing(compiled, own_weights=False)


def _torch_tensorrt(subject: Subject) -> Row:
    """torch_tensorrt without bridge's converters: operators that it cannot convert run in PyTorch, between engines."""
    from bridge.tensorrt.install.flavour import detect
    from bridge.tensorrt.install.version_shims import other_rtx

    flavour = detect()
    torch_tensorrt = flavour.torch_tensorrt()
    python = other_rtx(flavour.version) is not None
    bridge.unregister()
    try:
        with subject.lock.working():
            start = time.monotonic()
            compiled = torch_tensorrt.dynamo.compile(
                subject.program,
                arg_inputs=list(subject.model.args),
                kwarg_inputs=subject.model.kwargs,
                use_python_runtime=python,
            )
            row = {"seconds": time.monotonic() - start, "python_runtime": python, **_split_counts(compiled)}
            row["error"] = subject.error(compiled)
        return row | subject.timing(compiled)
    finally:
        bridge.register()


def _split_counts(compiled: Any) -> Row:
    """The number of engines, and of subgraphs that run in PyTorch, with their operators."""
    split_modules = [part for name, part in compiled.named_children() if name.startswith("_run_on_gpu")]
    graphs = [part.graph for part in split_modules or [compiled]]
    eager_calls = Counter(str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function")
    return {
        "engines": len(engines_of(compiled)),
        "graph_breaks": len(split_modules),
        "in_pytorch": dict(eager_calls.most_common(5)),
    }


def _times(timing: Timing) -> Row:
    return {"us": timing.us, **{f"{name}_us": value for name, value in asdict(timing).items() if name != "us"}}


_MEASURE_FUNCTIONS = {
    "bridge": _bridge,
    "eager": _eager,
    "native": _native,
    "inductor": _inductor,
    "torch_tensorrt": _torch_tensorrt,
}
