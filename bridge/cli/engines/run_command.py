"""`bridge run`: runs an engine, and says how long its calls take."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.base import log
from bridge.base.text import as_json
from bridge.cli.command import UsageError, integer
from bridge.cli.engines import shape_options
from bridge.engine_file.contents import EngineFile

if TYPE_CHECKING:
    from bridge.cli.engines.run_inputs import RunInput

DESCRIPTION = (
    "Run an engine on this GPU: throughput, and percentiles of what a call takes on the GPU, to launch, and from\n"
    "inputs in host memory to outputs in host memory. Inputs that are not loaded are random: floats of a normal\n"
    "distribution, integers 0 and 1. Indices of another range come from files.\n\n"
    "Example: bridge run net.engine --shapes x:4x3x224x224 --iterations 200 --load ids:ids.npy --save outputs"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.usage = "bridge run FILE.engine [options]"
    add = parser.add_argument
    add("file", metavar="FILE.engine", help="of bridge compile, or of CompiledModule.save")
    add(
        "--shapes",
        type=shape_options.shapes("x:4x3x224x224,ids:4x77", 1),
        action=shape_options.Collect,
        default={},
        metavar="NAME:SHAPE",
        help="of inputs, such as x:4x3x224x224,ids:4x77; default: those that the engine is tuned for",
    )
    add("--load", action="append", type=_load, default=[], metavar="NAME:FILE.npy", help="take an input from a file")
    add("--save", type=Path, metavar="DIR", help="write each output to DIR/NAME.npy")
    add("--iterations", type=_count(1), default=100, metavar="N", help="calls that are measured, in all; default: 100")
    add("--warm-up", type=_count(0), default=10, metavar="N", help="calls before those, of each stream; default: 10")
    add("--streams", type=_count(1), default=1, metavar="N", help="clients at a time, each with a stream; default: 1")
    add("--cuda-graph", action="store_true", help="replay a CUDA graph in each call")
    add("--profile", action="store_true", help="also the time and the share of each layer")
    add("--seed", type=int, default=0, metavar="N", help="of random inputs; default: 0")
    add("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Checks all that needs no GPU, runs, and returns the exit code."""
    from bridge.cli.engines import run_report
    from bridge.cli.engines.run_inputs import inputs_of

    file = EngineFile.load(options.file)
    inputs = inputs_of(file.inputs, options.shapes, options.load)
    if options.save:
        _make_folder(options.save)
    result = _measure(file, inputs, options)
    print(as_json(result) if options.json else run_report.text(result))
    return 0


def _measure(file: EngineFile, inputs: Sequence["RunInput"], options: argparse.Namespace) -> dict[str, Any]:
    """Runs the engine; returns all that is printed, as JSON values."""
    from bridge.bench import layers
    from bridge.bench.measure import environment
    from bridge.cli.engines import run_report
    from bridge.engine import latency
    from bridge.tensorrt.run.engine import Engine

    with log.step("loading the engine"):
        engine = Engine(file, cuda_graph=options.cuda_graph, static_outputs=True)
    tensors = [each.tensor(options.seed) for each in inputs]
    on_gpu = [tensor.to(engine.device) for tensor in tensors]
    outputs = [output.cpu() for output in engine(*on_gpu)]
    result = {
        "file": options.file,
        "model": file.metadata.get("model"),
        "target": file.target,
        "tensorrt": f"{file.flavour} {file.tensorrt_version}",
        **environment(),
        "inputs": [run_report.input_row(each, options.seed) for each in inputs],
        "outputs": run_report.output_rows([spec.name for spec in file.outputs], outputs, options.save),
        **{name: getattr(options, name) for name in ("iterations", "warm_up", "streams", "cuda_graph")},
    }
    measured = latency.measure(engine, tensors, options.iterations, options.warm_up, options.streams)
    result |= run_report.times(measured)
    if options.profile:
        result["layers"] = run_report.layers(layers.trace(engine, on_gpu))
    return result


def _make_folder(folder: Path) -> None:
    """UsageError: outputs cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"outputs cannot be saved in {folder}: {error.strerror}") from None


def _count(least: int) -> Callable[[str], int]:
    return integer(f"integer of at least {least}", least)


def _load(text: str) -> str:
    if ":" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME:FILE.npy")
    return text
