"""Time of a whole engine."""

from pathlib import Path
from typing import Any

import torch

from bridge.compiled import load
from bridge.table import columns
from bridge.tensorrt import dtypes
from bridge.tensorrt.engine_file import EngineFile, TensorSpec
from bridge.timing import time_call


def measure(path: str | Path) -> dict[str, Any]:
    """GPU time of an engine on random inputs of the shapes that it is tuned for.

    Raises:
        EngineFileError: it is no engine file.
        RuntimeError: there is no GPU.
        EngineError: the engine does not run on this GPU.
    """
    file = EngineFile.load(path)
    if not torch.cuda.is_available():
        raise RuntimeError("an engine is measured on a CUDA GPU, and there is none")
    inputs = [_input(spec) for spec in file.inputs]
    module = load(path)
    timing = time_call(lambda given: module(*given), [inputs])
    return {
        "file": str(path),
        "gpu": torch.cuda.get_device_name(),
        "us": timing.us,
        "low_us": timing.low,
        "high_us": timing.high,
        "plugins": dict(module.plugin_counts()),
        "inputs": {spec.name: list(spec.opt) for spec in file.inputs},
    }


def _input(spec: TensorSpec) -> torch.Tensor:
    dtype = dtypes.named(spec.dtype).torch
    if dtype.is_floating_point:
        return torch.randn(spec.opt, device="cuda").to(dtype)
    return torch.zeros(spec.opt, device="cuda", dtype=dtype)


def table(found: dict[str, Any]) -> str:
    """The same for reading."""
    plugins = ", ".join(f"{count} {name}" for name, count in found["plugins"].items()) or "none"
    inputs = "; ".join(f"{name} {shape}" for name, shape in found["inputs"].items())
    rows = [
        ("engine", found["file"]),
        ("GPU", found["gpu"]),
        ("inputs", inputs),
        ("plugin layers", plugins),
        ("us a call", f"{found['us']:.1f} ({found['low_us']:.1f} to {found['high_us']:.1f}), in a CUDA graph"),
    ]
    return columns(rows, indent=0)
