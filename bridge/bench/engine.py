"""Times an engine, its kernels and its layers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.base.text import columns
from bridge.bench import kernels, layers
from bridge.bench.measure import environment
from bridge.engine.node_table import plugin_counts
from bridge.engine.timing import compare
from bridge.engine_file import dtypes
from bridge.engine_file.contents import EngineFile, TensorSpec
from bridge.tensorrt.run.engine import Engine

SCHEMA = 1
_NAME_WIDTH = 100
Progress = Callable[[dict[str, Any], str], None]


def measure(path: str | Path, progress: Progress) -> dict[str, Any]:
    """GPU time of an engine, of its kernels and of its layers, on random inputs of the tuned shapes.

    progress: called three times with the result so far and the text of the newest part.

    Raises:
        EngineFileError: it is no engine file.
        RuntimeError: there is no GPU.
        EngineError: the engine does not run on this GPU.
    """
    file = EngineFile.load(path)
    if not torch.cuda.is_available():
        raise RuntimeError("an engine is measured on a CUDA GPU, and there is none")
    engine, inputs = Engine(file), [_input(spec) for spec in file.inputs]
    result = {"schema": SCHEMA, "file": str(path), **_facts(file), **_time(engine, inputs)}
    progress(result, time_table(result))
    context = engine.new_context(for_capture=True, static_outputs=True)  # the kernels that were timed
    result["kernels"] = [asdict(kernel) for kernel in kernels.trace(lambda: context(*inputs))]
    progress(result, kernels_table(result["kernels"]))
    result["layers"] = [asdict(layer) for layer in layers.trace(engine, inputs)]
    progress(result, layers_table(result["layers"]))
    return result


def _facts(file: EngineFile) -> dict[str, Any]:
    """Facts about the machine and the file."""
    facts = environment()
    facts["versions"][file.flavour] = file.tensorrt_version
    return {
        **facts,
        "plugins": dict(plugin_counts(file.layers)),
        "inputs": {spec.name: list(spec.opt) for spec in file.inputs},
    }


def _time(engine: Engine, inputs: Sequence[Tensor]) -> dict[str, float]:
    (timing,) = compare([engine], inputs)
    return {"us": timing.us, "low_us": timing.low, "high_us": timing.high}


def _input(spec: TensorSpec) -> Tensor:
    dtype = dtypes.named(spec.dtype).torch
    if dtype.is_floating_point:
        return torch.randn(spec.opt, device="cuda").to(dtype)
    return torch.zeros(spec.opt, device="cuda", dtype=dtype)


def table(result: dict[str, Any]) -> str:
    """The whole result as text."""
    return "\n\n".join([time_table(result), kernels_table(result["kernels"]), layers_table(result["layers"])])


def time_table(result: dict[str, Any]) -> str:
    """The engine and its time, as text."""
    plugins = ", ".join(f"{count} {name}" for name, count in result["plugins"].items()) or "none"
    rows = [
        ("engine", result["file"]),
        ("GPU", f"{result['gpu']}, driver {result['driver']}, {result['date']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result["versions"].items())),
        ("inputs", "; ".join(f"{name} {shape}" for name, shape in result["inputs"].items())),
        ("plugin layers", plugins),
        (
            "us a run",
            f"{result['us']:.1f} ({result['low_us']:.1f} to {result['high_us']:.1f}), in a CUDA graph if it can",
        ),
    ]
    return columns(rows, indent=0)


def kernels_table(kernel_rows: Sequence[dict[str, Any]]) -> str:
    """The kernels as text; those of plugins are marked with their op."""
    if not kernel_rows:
        return "kernels: CUPTI recorded none; is the GPU's profiling allowed, and no other profiler attached?"
    rows = [(row["op"], f"{row['launches']:g}", row["us"], row["name"]) for row in kernel_rows]
    return _parts_table("kernel", rows)


def layers_table(layer_rows: Sequence[dict[str, Any]]) -> str:
    """The layers as text."""
    if not layer_rows:
        return "layers: TensorRT reported the time of none"
    return _parts_table("layer", [(row["op"], "", row["us"], row["name"]) for row in layer_rows])


def _parts_table(what: str, rows: Iterable[tuple[str | None, str, float, str]]) -> str:
    rows = list(rows)
    total_us, plugin_us = sum(row[2] for row in rows), sum(row[2] for row in rows if row[0])
    body = [
        (f"plugin {op}" if op else "", launches, f"{us:.2f}", _share(us, total_us), _shorten(name))
        for op, launches, us, name in rows
    ]
    sums = [
        ("plugins", "", f"{plugin_us:.2f}", _share(plugin_us, total_us), ""),
        ("all", "", f"{total_us:.2f}", "", ""),
    ]
    head = ("", "launches" if what == "kernel" else "", "us a run", "share", what)
    return columns([head, *body, *sums], indent=0, heading=True)


def _share(us: float, total_us: float) -> str:
    return f"{us / total_us:.1%}" if total_us else ""


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
