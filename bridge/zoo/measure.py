"""Measures one model: its engine, and on a GPU its results, times and memory.

It is compared with eager, Inductor, torch_tensorrt alone, and an engine without bridge's kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.utils import _pytree as pytree

from bridge.config import Config
from bridge.doors import model_file
from bridge.doors.model_file import Model
from bridge.doors.session import Session
from bridge.graph.capture import export
from bridge.zoo import memory, variants
from bridge.zoo.backends import VARIANTS
from bridge.zoo.entries import Entry
from bridge.zoo.failures import result_or_failure
from bridge.zoo.measuring_lock import MeasuringLock
from bridge.zoo.subject import Row, Subject
from bridge.zoo.table import BACKENDS


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
    model = _on_target(model_file.load(str(entry.path), list(argv)), target)
    row: Row = {"model": entry.name, "about": entry.about, "argv": list(argv), **_facts(model), "ways": {}}
    keep(row)
    with Session.of(Config(target=target)).converting():
        program = export(model.model, model.args, model.kwargs, model.dynamic_shapes)
    subject = Subject(entry, model, program, target, lock)
    for name in VARIANTS:
        has_plugins = row["ways"].get("bridge", {"plugins": True}).get("plugins")
        if name in backends and (name == "bridge" or (subject.runs and (name != "native" or has_plugins))):
            _measure_backend(name, subject, row, keep)
    return row


def _measure_backend(name: str, subject: Subject, row: Row, keep: Callable[[Row], None]) -> None:
    """Adds the result of a backend to a row; `keep` gets the row after each variant, those to come still running."""
    results: dict[str, Row] = {}
    so_far: Row = {}
    for variant, measure_variant in VARIANTS[name].items():
        row["ways"][name] = {**so_far, "running": True}
        keep(row)
        used = memory.used() if subject.runs else None
        results[variant] = result_or_failure(measure_variant, replace(subject, used=used))
        so_far = variants.summary(results)
    row["ways"][name] = so_far
    keep(row)


def _on_target(model: Model, target: str | None) -> Model:
    """The model on the GPU, if engines are for it."""
    if target is not None or not torch.cuda.is_available():
        return model
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), (model.args, model.kwargs))
    return Model(model.model.cuda(), args, kwargs, model.dynamic_shapes)


def _facts(model: Model) -> Row:
    parameters = list(model.model.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "inputs": [list(tensor.shape) for tensor in pytree.tree_leaves((model.args, model.kwargs))],
    }
