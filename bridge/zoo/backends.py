"""What a model is measured by: one function for each variant of each backend."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

import bridge
from bridge.base.log import logger
from bridge.config import Config
from bridge.doors.compiler import capture
from bridge.doors.session import Session
from bridge.doors.torch_tensorrt_door import engines_of
from bridge.graph import dynamo
from bridge.zoo import products
from bridge.zoo.failures import result_or_failure
from bridge.zoo.subject import Function, Row, Subject, largest_difference

WITH_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of Inductor
INDUCTOR_MODES = ("default", *WITH_GRAPHS)


def _bridge(subject: Subject) -> Row:
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
    row |= subject.timing(compiled)
    return row | {"cuda_graph": result_or_failure(_engine_in_graph, subject, compiled)} | _products(subject, compiled)


def _engine_in_graph(subject: Subject, compiled: bridge.CompiledModule) -> Row:
    replayed = bridge.CompiledModule(compiled.file, cuda_graph=True, static_outputs=True)
    subject.call(replayed)
    return subject.timing(replayed)


def _native(subject: Subject) -> Row:
    """One engine without bridge's kernels: no passes, and ops as TensorRT's own layers."""
    start = time.monotonic()
    compiled = bridge.compile(subject.program, passes=False, lowering="native", cache=False, progress=False)
    row: Row = {"seconds": time.monotonic() - start, "engines": 1, "layers": len(compiled.layers)}
    row["error"] = subject.error(compiled)
    row |= subject.timing(compiled)
    return row | {"cuda_graph": result_or_failure(_engine_in_graph, subject, compiled)}


def _eager(subject: Subject) -> Row:
    row = subject.timing(subject.model.model, own_weights=False)
    row["cuda_graph"] = result_or_failure(_eager_in_graph, subject)
    return row | {"wider": result_or_failure(lambda: {"error": subject.rounding()})}


def _eager_in_graph(subject: Subject) -> Row:
    replayed = subject.captured(subject.model.model)
    row: Row = {"error": subject.error_in_graph(replayed)}
    return row | subject.timing(replayed, own_weights=False)


def _inductor(subject: Subject, mode: str) -> Row:
    """torch.compile in one of its modes, with PyTorch's own count of graph breaks."""
    torch.compiler.reset()
    with dynamo.counting_graph_breaks() as graph_breaks:
        start = time.monotonic()
        compiled = torch.compile(subject.model.model, mode=mode)
        row: Row = {"error": subject.error(compiled), "seconds": time.monotonic() - start}
        if mode in WITH_GRAPHS:
            subject.call(compiled)  # records a graph, which the next call replays
            row["error"] = subject.error_in_graph(compiled)
        row["graph_breaks"] = sum(graph_breaks.values())
    return row | subject.timing(compiled, own_weights=False) | _products(subject, compiled)


def _torch_tensorrt(subject: Subject, python: bool) -> Row:
    """torch_tensorrt without bridge's converters: operators that it cannot convert run in PyTorch, between engines.

    With the shims that its own compile needs: a newer TensorRT would fail it as a whole. python: by its Python runtime,
    else by its C++ one.
    """
    from bridge.tensorrt.install.flavour import detect, registered
    from bridge.tensorrt.install.version_shims import other_rtx

    flavour = detect()
    torch_tensorrt = flavour.torch_tensorrt()
    compiled_for = other_rtx(flavour.version)
    if compiled_for is not None and not python:
        raise RuntimeError(f"it was compiled for TensorRT-RTX {compiled_for}, and crashes with {flavour.version}")
    bridge.unregister()
    try:
        start = time.monotonic()
        with registered(flavour):
            compiled = torch_tensorrt.dynamo.compile(
                subject.program,
                arg_inputs=list(subject.model.args),
                kwarg_inputs=subject.model.kwargs,
                use_python_runtime=python,
            )
        row = {"seconds": time.monotonic() - start, **_split_counts(compiled)}
        row["error"] = subject.error(compiled)
        row |= subject.timing(compiled)
        return row | {"cuda_graph": result_or_failure(_split_in_graphs, subject, compiled, torch_tensorrt)}
    finally:
        bridge.register()


def _split_in_graphs(subject: Subject, compiled: Any, torch_tensorrt: Any) -> Row:
    with torch_tensorrt.runtime.enable_cudagraphs(compiled) as replayed:
        row: Row = {"error": subject.error_in_graph(replayed)}
        return row | subject.timing(replayed)


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


def _products(subject: Subject, function: Function) -> Row:
    """Under "products", what share of a call is matrix products; nothing where a profile cannot be made."""
    try:
        with subject.lock.alone():
            found = products.measure(lambda: subject.call(function))
    except Exception:  # of any kind: another profiler is attached, or profiling is not allowed; times count without it
        logger.info("no profile", exc_info=True)
        return {}
    return {"products": found} if found else {}


Measure = Callable[[Subject], Row]
VARIANTS: Mapping[str, Mapping[str, Measure]] = {  # by backend, in the order of their measurement; "": the only one
    "bridge": {"": _bridge},
    "eager": {"": _eager},
    "native": {"": _native},
    "inductor": {mode: partial(_inductor, mode=mode) for mode in INDUCTOR_MODES},
    "torch_tensorrt": {
        "Python runtime": partial(_torch_tensorrt, python=True),
        "C++ runtime": partial(_torch_tensorrt, python=False),
    },
}
