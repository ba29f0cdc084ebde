"""Time of a whole engine, and of its kernels and layers."""

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
    """GPU time of an engine, of its kernels and of its layers, on random inputs of the shapes that it is tuned for.

    progress: gets what there is so far and the text of its newest part, three times.

    Raises:
        EngineFileError: it is no engine file.
        RuntimeError: there is no GPU.
        EngineError: the engine does not run on this GPU.
    """
    file = EngineFile.load(path)
    if not torch.cuda.is_available():
        raise RuntimeError("an engine is measured on a CUDA GPU, and there is none")
    engine, inputs = Engine(file), [_input(spec) for spec in file.inputs]
    found = {"schema": SCHEMA, "file": str(path), **_facts(file), **_time(engine, inputs)}
    progress(found, time_table(found))
    context = engine.new_context(static_outputs=True)
    found["kernels"] = [asdict(kernel) for kernel in kernels.trace(lambda: context(*inputs))]
    progress(found, kernels_table(found["kernels"]))
    found["layers"] = [asdict(layer) for layer in layers.trace(engine, inputs)]
    progress(found, layers_table(found["layers"]))
    return found


def _facts(file: EngineFile) -> dict[str, Any]:
    """What the machine and the file say."""
    here = environment()
    here["versions"][file.flavour] = file.tensorrt_version
    return {
        **here,
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


def table(found: dict[str, Any]) -> str:
    """All of it for reading."""
    return "\n\n".join([time_table(found), kernels_table(found["kernels"]), layers_table(found["layers"])])


def time_table(found: dict[str, Any]) -> str:
    """The engine and its time, for reading."""
    plugins = ", ".join(f"{count} {name}" for name, count in found["plugins"].items()) or "none"
    rows = [
        ("engine", found["file"]),
        ("GPU", f"{found['gpu']}, driver {found['driver']}, {found['date']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        ("inputs", "; ".join(f"{name} {shape}" for name, shape in found["inputs"].items())),
        ("plugin layers", plugins),
        ("us a run", f"{found['us']:.1f} ({found['low_us']:.1f} to {found['high_us']:.1f}), in a CUDA graph if it can"),
    ]
    return columns(rows, indent=0)


def kernels_table(found: Sequence[dict[str, Any]]) -> str:
    """Its kernels for reading; those of plugins are marked with their op."""
    if not found:
        return "kernels: CUPTI recorded none; is the GPU's profiling allowed, and no other profiler attached?"
    rows = [(row["op"], f"{row['launches']:g}", row["us"], row["name"]) for row in found]
    return _parts_table("kernel", rows)


def layers_table(found: Sequence[dict[str, Any]]) -> str:
    """Its layers for reading."""
    if not found:
        return "layers: TensorRT reported the time of none"
    return _parts_table("layer", [(row["op"], "", row["us"], row["name"]) for row in found])


def _parts_table(what: str, rows: Iterable[tuple[str | None, str, float, str]]) -> str:
    rows = list(rows)
    total, ours = sum(row[2] for row in rows), sum(row[2] for row in rows if row[0])
    body = [
        (f"plugin {op}" if op else "", launches, f"{us:.2f}", _share(us, total), _shorten(name))
        for op, launches, us, name in rows
    ]
    sums = [("plugins", "", f"{ours:.2f}", _share(ours, total), ""), ("all", "", f"{total:.2f}", "", "")]
    head = ("", "launches" if what == "kernel" else "", "us a run", "share", what)
    return columns([head, *body, *sums], indent=0)


def _share(us: float, total: float) -> str:
    return f"{us / total:.1%}" if total else ""


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
