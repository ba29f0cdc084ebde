"""What `bridge run` prints of a run, as text and as JSON; and the files of its outputs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from bridge.base.text import columns
from bridge.bench.engine import layers_table
from bridge.bench.layers import Layer
from bridge.cli.engines.run_inputs import RunInput
from bridge.engine.latency import Measurement

_ROWS = {"gpu": "GPU", "enqueue": "enqueue", "end_to_end": "end to end"}
_LONGEST = 200  # letters of a file's name, of which systems allow 255
_LAUNCH_BOUND = 0.9  # of the GPU's time: what launches take from which on they decide it


def times(measurement: Measurement) -> dict[str, Any]:
    """Throughput, and the percentiles of each time in microseconds, as JSON values."""
    us = {name: asdict(percentiles) for name, percentiles in measurement.percentiles().items()}
    return {"runs_per_second": measurement.throughput, "us": us}


def layers(found: Sequence[Layer]) -> list[dict[str, Any]]:
    """The layers as JSON values, with the share of each."""
    total = sum(layer.us for layer in found)
    return [asdict(layer) | {"share": layer.us / total if total else 0.0} for layer in found]


def input_row(each: RunInput, seed: int) -> dict[str, Any]:
    """An input as JSON values."""
    return _row(each.spec.name, each.spec.dtype, each.shape) | {"from": each.source(seed)}


def output_rows(names: Sequence[str], outputs: Sequence[Tensor], folder: Path | None) -> list[dict[str, Any]]:
    """The outputs as JSON values. folder: where to write each as a .npy file.

    numpy has no bfloat16: its values are written as float32.
    """
    rows = [
        _row(name, str(output.dtype).removeprefix("torch."), output.shape)
        for name, output in zip(names, outputs, strict=True)
    ]
    if folder is not None:
        for row, output, file in zip(rows, outputs, file_names(names), strict=True):
            values = output.float() if output.dtype == torch.bfloat16 else output
            numpy.save(folder / file, values.numpy(), allow_pickle=False)
            row["file"] = str(folder / file)
    return rows


def _row(name: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def text(result: Mapping[str, Any]) -> str:
    """The whole result for reading."""
    parts = [columns(_facts(result), indent=0), columns(_latencies(result["us"]), indent=0, heading=True)]
    if "layers" in result:
        parts.append(layers_table(result["layers"]))
    if note := _note(result):
        parts.append(note)
    return "\n\n".join(parts)


def _facts(result: Mapping[str, Any]) -> list[tuple[object, ...]]:
    versions = [f"{name} {version}" for name, version in result["versions"].items()]
    graph = ", each a replay of a CUDA graph" if result["cuda_graph"] else ""
    streams = f"{result['streams']} stream" + ("s" if result["streams"] > 1 else "")
    rows: list[tuple[object, ...]] = [
        ("engine", result["file"]),
        ("GPU", f"{result['gpu']}, driver {result['driver']}, {result['date']}"),
        ("versions", ", ".join([*versions, result["tensorrt"]])),
        *_tensors("input", result["inputs"], "from"),
        *_tensors("output", result["outputs"], "file"),
        ("runs", f"{result['iterations']} after {result['warm_up']} to warm up, on {streams}{graph}"),
        ("throughput", f"{result['runs_per_second']:.1f} runs/s"),
    ]
    return rows


def _tensors(what: str, rows: Sequence[Mapping[str, Any]], last: str) -> list[tuple[object, ...]]:
    return [
        (what, " ".join(filter(None, (row["name"], row["dtype"], str(row["shape"]), row.get(last))))) for row in rows
    ]


def _latencies(us: Mapping[str, Mapping[str, float]]) -> list[tuple[object, ...]]:
    headings = tuple(us["gpu"])
    rows = [(label, *(f"{us[name][heading]:.1f}" for heading in headings)) for name, label in _ROWS.items()]
    return [("µs a run", *headings), *rows]


def _note(result: Mapping[str, Any]) -> str:
    """What to do where launches by the CPU decide the GPU's time."""
    gpu, enqueue = (result["us"][name]["median"] for name in ("gpu", "enqueue"))
    if result["cuda_graph"] or enqueue < _LAUNCH_BOUND * gpu:
        return ""
    return "The CPU's launches take about as long as the GPU: --cuda-graph shows what the GPU needs alone."


def file_names(names: Sequence[str]) -> list[str]:
    """A distinct file name for each output: its own, with "_" for what a path may not hold."""
    found: list[str] = []
    for name in names:
        stem = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".")[:_LONGEST] or "_"
        file, count = f"{stem}.npy", 1
        while file in found:
            file, count = f"{stem}-{count + 1}.npy", count + 1
        found.append(file)
    return found
