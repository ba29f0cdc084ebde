"""One run of `bridge bench --generated` on the current GPU.

An engine of one plugin and the same computation outside of it are replayed from CUDA graphs, in turns, on the same
inputs. Triton's own autotuner, or Inductor's, has chosen its configuration before.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import bridge
from bridge.bench.generated.workload import TRITON, TUNED, Workload
from bridge.bench.measure import environment
from bridge.engine.compiled import CompiledModule
from bridge.engine.error_metric import deviation, largest_error
from bridge.engine.timing import Timing, compare
from bridge.generate.native import triton_private
from bridge.graph.one_call import OneCall
from bridge.tensorrt.run.engine import Engine

SCHEMA = 1
Progress = Callable[[dict[str, Any]], None]


def run(workloads: Sequence[Workload], progress: Progress, tune: bool = False) -> dict[str, Any]:
    """The run as JSON values; `progress` gets the result so far after each workload.

    tune: also measure an engine after bridge.tune, which takes minutes. A workload that fails is reported as such.
    RuntimeError: there is no GPU.
    """
    _check_gpu()
    facts = environment()
    facts["versions"]["triton"] = triton_private.version()
    result: dict[str, Any] = {"schema": SCHEMA, **facts, "generated": []}
    for workload in workloads:
        row = {"workload": workload.name, "dtype": workload.dtype, "kernels": workload.kernels}
        row["shapes"] = [list(shape) for shape in workload.shapes]  # type: ignore[assignment]
        try:
            measured = measure(workload, tune, facts["versions"])
        except Exception as error:  # of any kind: one failure must not cost the times of the others
            measured = {"failed": f"{type(error).__name__}: {error}"}
        result["generated"].append({**row, **measured})
        torch.cuda.empty_cache()
        progress(result)
    return result


def _check_gpu() -> None:
    if not torch.cuda.is_available():
        raise RuntimeError(
            "generated plugins are measured on a CUDA GPU, and there is none; --list and --against need none"
        )


@torch.no_grad()
def measure(workload: Workload, tune: bool, versions: dict[str, str]) -> dict[str, Any]:
    """The times and errors of a workload. versions: gets that of TensorRT."""
    inputs = workload.inputs("cuda")
    engines = dict(_engines(workload, inputs, tune))
    file = engines[""].file
    versions[file.flavour] = file.tensorrt_version
    calls = {name: functools.partial(call, *inputs) for name, call in peers(workload).items()}
    timings = compare([Engine(each.file) for each in engines.values()], inputs, list(calls.values()))
    exact = workload.function(*(each.double() for each in inputs))
    peer = workload.function(*inputs)
    rows = [
        {**_times(timing), "error": largest_error(result, exact), "right": is_right(result, peer, exact)}
        for timing, result in zip(timings, _results(engines, calls, inputs), strict=True)
    ]
    named = dict(zip([*engines, *calls], rows, strict=True))
    return {
        "launches": [each["launches"] for each in file.metadata["generated"][0]["regions"]],
        **named.pop(""),
        TUNED: named.pop(TUNED, None),
        "pytorch_error": largest_error(peer, exact),
        "peers": named,
    }


def _engines(workload: Workload, inputs: Sequence[Tensor], tune: bool) -> Iterator[tuple[str, CompiledModule]]:
    """The engine without measurements of this GPU, called "", and one with what bridge.tune chose, if it is to."""
    model = OneCall(workload.operator).eval()
    with tempfile.TemporaryDirectory(prefix="bridge-") as folder:  # of measurements
        settings: dict[str, Any] = {
            "dynamic_shapes": (workload.dynamic_shapes(),), "cache_dir": folder, "cache": False, "progress": False
        }  # fmt: skip
        yield "", _checked(bridge.compile(model, tuple(inputs), **settings))
        if tune:
            bridge.tune(model, tuple(inputs), **settings)
            yield TUNED, _checked(bridge.compile(model, tuple(inputs), **settings))


def _checked(compiled: CompiledModule) -> CompiledModule:
    """An engine. RuntimeError: it is not one plugin."""
    counts = dict(compiled.plugin_counts())
    if list(counts.values()) != [1] or not compiled.file.metadata["generated"]:
        raise RuntimeError(f"the engine has the plugins {counts}, expected one that was generated")
    return compiled


def peers(workload: Workload) -> Mapping[str, Callable[..., Any]]:
    """The same computation without TensorRT, by name: by Triton itself, or by torch.compile for one shape and any."""
    if workload.kernels == TRITON:
        return {TRITON: workload.operator}
    torch.compiler.reset()
    return {
        "inductor": torch.compile(workload.function, dynamic=False),
        "inductor, dynamic": torch.compile(_another(workload.function), dynamic=True),
    }


def _another(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function as one of its own: torch.compile keeps what it compiled by the function's code."""
    return lambda *inputs: function(*inputs)


def _results(
    engines: Mapping[str, CompiledModule], calls: Mapping[str, Callable[[], Any]], inputs: Sequence[Tensor]
) -> Iterator[Tensor]:
    for engine in engines.values():
        yield engine(*inputs)
    for call in calls.values():
        yield call()


def is_right(result: Tensor, peer: Tensor, exact: Tensor) -> bool:
    """Whether rounding explains how far a result is from PyTorch's in the same dtype, and in float64."""
    return not deviation(result, peer, exact, result.dtype).is_wrong


def _times(timing: Timing) -> dict[str, float]:
    return {"us": timing.us, "low_us": timing.low, "high_us": timing.high}
