"""Compares engines of a model: ops as plugins, as TensorRT's own layers, and as bridge.tune chose."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bridge.base.text import columns
from bridge.bench.measure import environment
from bridge.config import Config
from bridge.doors import model_file
from bridge.doors.compiler import capture
from bridge.doors.lowerings import tuner
from bridge.doors.lowerings.measured_lowerings import ROUNDING
from bridge.doors.model_file import Model
from bridge.doors.session import Session
from bridge.engine.compiled import CompiledModule
from bridge.engine.error_metric import largest_error
from bridge.engine.timing import Timing, compare, noise
from bridge.tensorrt.native_lowerings import NATIVE, PLUGIN
from bridge.tensorrt.run.engine import Engine

SCHEMA = 1
AUTO = "auto"


def run(specs: Sequence[str], argv: Sequence[str], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures model files, each made for the flags `argv`; `progress` gets the result so far after each model.

    A model that fails is reported as such. RuntimeError: there is no GPU. ModelFileError: as model_file.load has it.
    """
    _check_gpu()
    models = {spec: model_file.load(spec, argv) for spec in specs}
    result: dict[str, Any] = {"schema": SCHEMA, **environment(), "argv": list(argv), "models": []}
    for spec, model in models.items():
        try:
            measured = _measure(model, result["versions"])
        except Exception as error:  # of any kind: one model's failure must not cost the times of the others
            measured = {"failed": f"{type(error).__name__}: {error}"}
        result["models"].append({"model": spec, **measured})
        torch.cuda.empty_cache()
        progress(result)
    return result


def _check_gpu() -> None:
    if not torch.cuda.is_available():
        raise RuntimeError("lowerings are measured on a CUDA GPU, and there is none; --against shows a recorded run")


def _measure(model: Model, versions: dict[str, str]) -> dict[str, Any]:
    config = Config(progress=False)
    tuning = tuner.tune(model.model, model.args, model.kwargs, dynamic_shapes=model.dynamic_shapes, config=config)
    engines = build(model, config)
    file = engines[PLUGIN].file
    versions[file.flavour] = file.tensorrt_version
    inputs = tuner.example_inputs(engines[PLUGIN], model.model, model.args, model.kwargs)
    timings = compare([Engine(engine.file) for engine in engines.values()], inputs)
    errors = _errors(model, engines)
    return {
        "name": file.metadata["model"],
        "inputs": {spec.name: list(tensor.shape) for spec, tensor in zip(file.inputs, inputs, strict=True)},
        "tuning": [asdict(item) for item in tuning.measurements],
        "left_out": dict(tuning.left_out),
        "lowerings": {
            lowering: _row(timing, engines[lowering], errors[lowering])
            for lowering, timing in zip(engines, timings, strict=True)
        },
        **verdict(dict(zip(engines, timings, strict=True)), errors),
    }


def build(model: Model, config: Config) -> dict[str, CompiledModule]:
    """The engines with plugins, with native layers where a call has them, and with the measured lowerings."""
    session = replace(Session.of(config), measured={})
    with session.converting():
        captured = capture(session, model.model, model.args, model.kwargs, model.dynamic_shapes)
    kinds, _ = tuner.kinds_of(captured, session)
    engines = {
        lowering: tuner.compile_as(captured, session, dict.fromkeys(kinds, lowering)) for lowering in (PLUGIN, NATIVE)
    }
    session = Session.of(config)  # with the recorded measurements
    with session.converting():
        engines[AUTO] = captured.compile(session)
    return engines


def verdict(timings: Mapping[str, Timing], errors: Mapping[str, float]) -> dict[str, Any]:
    """The faster of plugin and native, and whether auto is as fast, within the noise.

    A lowering with wrong results, by `errors`, does not compete.
    """
    accurate = [lowering for lowering in (PLUGIN, NATIVE) if errors[lowering] <= ROUNDING]
    better = min(accurate or (PLUGIN, NATIVE), key=lambda lowering: timings[lowering].us)
    noise_us = noise(timings[AUTO], timings[better])
    return {"better": better, "noise_us": noise_us, "auto_is_best": timings[AUTO].us <= timings[better].us + noise_us}


def _row(timing: Timing, engine: CompiledModule, error: float) -> dict[str, Any]:
    choices = engine.file.metadata["lowerings"]
    return {
        "us": timing.us,
        "low_us": timing.low,
        "high_us": timing.high,
        "error": error,
        "calls": dict(Counter(f"{choice['op']} {choice['lowering']}" for choice in choices)),
    }


@torch.no_grad()
def _errors(model: Model, engines: Mapping[str, CompiledModule]) -> dict[str, float]:
    """Largest difference from eager, as a fraction of the largest output; the model is moved to the GPU."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), (model.args, model.kwargs))
    if isinstance(model.model, ExportedProgram):  # its graph's constants stay on the device of the export
        expected = model.model.module()(*model.args, **model.kwargs)
    else:
        expected = model.model.cuda()(*args, **kwargs)
    return {lowering: largest_error(engine(*args, **kwargs), expected) for lowering, engine in engines.items()}


def table(result: Mapping[str, Any]) -> str:
    """The run as text: a line per model and lowering, then the skipped calls, then whether auto is the fastest."""
    head = [
        ("GPU", f"{result['gpu']}, driver {result['driver']}, {result['date']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result["versions"].items())),
        *([("model flags", " ".join(result["argv"]))] if result["argv"] else []),
    ]
    heading = ("model", "lowering", "us a run", "10-90 %", "error", "calls")
    measured = [model for model in result["models"] if "lowerings" in model]
    rows = [_cells(model, lowering, row) for model in measured for lowering, row in model["lowerings"].items()]
    sections = [columns(head, indent=0), columns([heading, *rows], indent=0)]
    left_out = {f"{kind}: {why}" for model in measured for kind, why in model["left_out"].items()}
    if left_out:
        sections.append("\n".join(["plugin in all of them", *(f"  {line}" for line in sorted(left_out))]))
    return "\n\n".join([*sections, "\n".join(map(_verdict_text, result["models"]))])


def _cells(model: Mapping[str, Any], lowering: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    calls = ", ".join(f"{count} {call}" for call, count in row["calls"].items()) or "none"
    range_text = f"{row['low_us']:.1f}-{row['high_us']:.1f}"
    return Path(model["model"]).name, lowering, f"{row['us']:.1f}", range_text, f"{row['error']:.1e}", calls


def _verdict_text(model: Mapping[str, Any]) -> str:
    name = Path(model["model"]).name
    if "failed" in model:
        return f"FAILED: {name}: {model['failed']}"
    auto, better = model["lowerings"][AUTO]["us"], model["better"]
    best, noise_us = model["lowerings"][better]["us"], model["noise_us"]
    if model["auto_is_best"]:
        return (
            f"{name}: auto takes {auto:.1f} us, {better}, the better, {best:.1f} us, noise {noise_us:.1f} us: as fast"
        )
    return f"SLOWER: {name}: auto takes {auto:.1f} us, {better} {best:.1f} us, and the noise is {noise_us:.1f} us"


def auto_is_best_everywhere(result: Mapping[str, Any]) -> bool:
    """Whether every model was measured, and auto is nowhere slower than the better lowering by more than the noise."""
    return all(model.get("auto_is_best", False) for model in result["models"])
