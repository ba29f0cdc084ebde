"""One model: its engine, and on a GPU results, times and memory of it, beside those of eager, Inductor, torch_tensorrt
alone, and one engine without bridge's kernels."""

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
from bridge.zoo.table import WAYS

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model in the middle of being measured. program: as torch.export captured it, once for all. used: MiB of GPU
    memory that the process had before this way, the model's weights among them."""

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
        """function of the example arguments."""
        return function(*self.model.args, **self.model.kwargs)

    def error(self, function: Callable[..., Any]) -> float:
        """Largest difference from eager, as a fraction of each result's largest value."""
        found = largest_difference(self.call(function), self.call(self.model.model), self.entry.unordered)
        torch.cuda.empty_cache()  # eager's memory is not this way's
        return found

    def timing(self, function: Callable[..., Any], own_weights: bool = True) -> Row:
        """The time of a call, alone on the machine, and the MiB of GPU memory that it took to have it.

        own_weights: `function` has its own; else it uses the model's, which count for it, too.
        """
        with self.lock.alone():
            found = _times(time_loop(lambda: self.call(function)))
            used = memory.used()
        if used is None or self.used is None:
            return found
        shared = 0 if own_weights else _weight_bytes(self.model.model) // 2**20
        return found | {"memory_mib": used - self.used + shared}


@torch.no_grad()
def measure(
    entry: Entry,
    argv: Sequence[str],
    target: str | None,
    keep: Callable[[Row], None],
    lock: MeasuringLock | None = None,
    ways: Sequence[str] = tuple(WAYS),
) -> Row:
    """What came of one model, made for the flags `argv`, as JSON values; `keep` gets what there is after each way.

    ways: of table.WAYS; "native" not for a model in which bridge, measured too, found none of its ops. A way that fails
    says so under "failed". Errors of the script, and of torch.export, are the caller's.
    """
    lock = lock or MeasuringLock()
    with lock.working():
        model = _on_target(model_file.load(str(entry.path), list(argv)), target)
        row: Row = {"model": entry.name, "about": entry.about, "argv": list(argv), **_facts(model), "ways": {}}
        keep(row)
        with Session.of(Config(target=target)).converting():
            program = export(model.model, model.args, model.kwargs, model.dynamic_shapes)
    subject = Subject(entry, model, program, target, lock)
    for name, way in _WAYS.items():
        has_plugins = row["ways"].get("bridge", {"plugins": True}).get("plugins")
        if name in ways and (name == "bridge" or (subject.runs and (name != "native" or has_plugins))):
            row["ways"][name] = {"running": True}
            keep(row)
            row["ways"][name] = _result_or_failure(way, replace(subject, used=memory.used() if subject.runs else None))
            keep(row)
    return row


def largest_difference(actual: Any, expected: Any, unordered: bool = False) -> float:
    """Largest difference of two results, as a fraction of each tensor's largest value; NaN where there is one.

    unordered: rows along axis 1 may stand in any order; each column is sorted first.
    """
    if unordered:
        actual, expected = (pytree.tree_map_only(torch.Tensor, _sorted, result) for result in (actual, expected))
    return largest_error(actual, expected)


def _sorted(x: torch.Tensor) -> torch.Tensor:
    return x.sort(dim=1).values


def _on_target(model: Model, target: str | None) -> Model:
    """On the GPU, where engines are for it."""
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


def _result_or_failure(way: Callable[..., Row], *args: Any) -> Row:
    try:
        return way(*args)
    except Exception as error:  # of any kind: what failed is a result, and the other ways are to be measured
        logger.info("%s failed", way.__name__.strip("_"), exc_info=True)
        return {"failed": first_line(error)}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """What an error is, in a line; files are named from the current folder on."""
    lines = [line.strip() for line in str(error).replace(f"{Path.cwd()}{os.sep}", "").splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


# The ways


def _bridge(subject: Subject) -> Row:
    with subject.lock.working():
        start = time.monotonic()
        session = Session.of(Config(target=subject.target, cache=False, progress=False))
        with session.converting():  # as bridge.compile does
            captured = capture(session, subject.program, (), None, None)
            compiled = captured.compile(session)
        seconds = time.monotonic() - start
        before, after = (program.module(check_guards=False) for program in (subject.program, captured.program))
        found: Row = {
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
            return found
        found["error"] = subject.error(compiled)
    return found | subject.timing(compiled) | {"cuda_graph": _result_or_failure(_with_cuda_graph, subject, compiled)}


def _with_cuda_graph(subject: Subject, compiled: bridge.CompiledModule) -> Row:
    replayed = bridge.CompiledModule(compiled.file, cuda_graph=True, static_outputs=True)
    with subject.lock.working():
        subject.call(replayed)
    return subject.timing(replayed)


def _native(subject: Subject) -> Row:
    """One engine without bridge's kernels: the model's own code as layers, and ops as TensorRT's layers."""
    with subject.lock.working():
        start = time.monotonic()
        compiled = bridge.compile(subject.program, passes=False, lowering="native", cache=False, progress=False)
        found: Row = {"seconds": time.monotonic() - start, "engines": 1, "layers": len(compiled.layers)}
        found["error"] = subject.error(compiled)
    return found | subject.timing(compiled)


def _eager(subject: Subject) -> Row:
    return subject.timing(subject.model.model, own_weights=False)


def _inductor(subject: Subject) -> Row:
    """torch.compile as it is by default, whose graph breaks PyTorch counts itself."""
    with subject.lock.working(), dynamo.counting_graph_breaks() as graph_breaks:
        start = time.monotonic()
        compiled = torch.compile(subject.model.model)
        found: Row = {"error": subject.error(compiled), "seconds": time.monotonic() - start}
        found["graph_breaks"] = sum(graph_breaks.values())
    return found | subject.timing(compiled, own_weights=False)


def _torch_tensorrt(subject: Subject) -> Row:
    """torch_tensorrt without bridge's converters: what it has none for runs in PyTorch, between engines."""
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
            found = {"seconds": time.monotonic() - start, "python_runtime": python, **_pieces(compiled)}
            found["error"] = subject.error(compiled)
        return found | subject.timing(compiled)
    finally:
        bridge.register()


def _pieces(compiled: Any) -> Row:
    """How many engines there are, and how many pieces of the graph run in PyTorch, with their operators."""
    pieces = [part for name, part in compiled.named_children() if name.startswith("_run_on_gpu")]
    graphs = [part.graph for part in pieces or [compiled]]
    left = Counter(str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function")
    return {"engines": len(engines_of(compiled)), "graph_breaks": len(pieces), "in_pytorch": dict(left.most_common(5))}


def _times(timing: Timing) -> Row:
    return {"us": timing.us, **{f"{name}_us": value for name, value in asdict(timing).items() if name != "us"}}


_WAYS = {
    "bridge": _bridge,
    "eager": _eager,
    "native": _native,
    "inductor": _inductor,
    "torch_tensorrt": _torch_tensorrt,
}
