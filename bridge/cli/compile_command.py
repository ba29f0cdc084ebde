"""`bridge compile`: a model file becomes an engine."""

import argparse
import logging
from pathlib import Path

import bridge
from bridge.base import log
from bridge.base.text import columns, size
from bridge.doors import model_file

_USAGE = 2  # of exit codes: a command line that is wrong
DESCRIPTION = (
    "Compile the model of a model file into one engine.\n\n"
    + (model_file.__doc__ or "").partition("\n\n")[2]
    + "\nExample: bridge compile models/relu_net.py --target sm86 -o relu_net.engine -- --max-batch 16"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.usage = "bridge compile [options] MODEL.py[:function] [-- MODEL FLAGS]"
    add = parser.add_argument
    add("model", metavar="MODEL.py[:function]", help="the model file, and its function if not bridge_model")
    add("--target", metavar="SM", help="GPU to build for, such as sm86; default: the GPU of this machine")
    add("-o", "--output", metavar="FILE", help="where to save the engine; default: MODEL.engine here")
    add("--weights", metavar="FILE", help="handed to the model file as --weights FILE")
    add("--flavour", choices=("tensorrt", "tensorrt_rtx"), help="refuse to build with the other one")
    add(
        "--optimization-level", type=int, choices=range(6), metavar="0..5", help="TensorRT's builder optimization level"
    )
    add("--workspace-size", type=_bytes, metavar="BYTES", help="the most scratch memory that a layer may use")
    add("--no-cache", dest="cache", action="store_false", help="neither take the engine from the cache nor keep it")
    add("--no-tf32", dest="tf32", action="store_false", help="compute float32 in float32, not in TF32")
    add("--lowering", type=_lowering, default="auto", metavar="WAY", help="plugin, native, auto, or OP=WAY,OP=WAY")
    add("--passes", type=_passes, default=True, metavar="NAMES", help="graph rewrites: on, off, or NAME,NAME")
    add("--generate", action="store_true", help="make plugins of the operators that TensorRT lacks")
    add("--embed", action="store_true", help="put the plugin libraries into the plan")
    add("--tune", action="store_true", help="first measure, on this GPU, lowerings and autotuned kernels")
    add("-q", "--quiet", action="store_true", help="report no progress")
    add("-v", "--verbose", action="count", default=0, help="say what each step took; -vv: also where each node went")


def _bytes(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of bytes")
    return int(text)


def _lowering(text: str) -> str | dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    value = {op: way for op, _, way in parts} if "=" in text else text
    try:
        bridge.Config(lowering=value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _passes(text: str) -> bool | list[str]:
    value = {"on": True, "off": False}.get(text, text.split(","))
    try:
        bridge.Config(passes=value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def run(options: argparse.Namespace) -> int:
    """Runs it and returns its exit code."""
    if options.verbose:
        log.show(logging.INFO if options.verbose == 1 else logging.DEBUG)
    output = Path(options.output or f"{model_file.stem(options.model)}.engine")
    if not output.parent.is_dir():
        log.say(f"bridge: there is no folder {output.parent} to save {output.name} in")
        return _USAGE
    _report(options, f"loading {options.model}")
    weights = ["--weights", options.weights] if options.weights else []
    model = model_file.load(options.model, [*weights, *options.model_argv])
    _report(options, f"compiling {type(model.model).__name__} for {options.target or 'the GPU of this machine'}")
    config = bridge.Config(
        target=options.target,
        flavour=options.flavour,
        progress=not options.quiet,
        optimization_level=options.optimization_level,
        workspace_size=options.workspace_size,
        tf32=options.tf32,
        lowering=options.lowering,
        passes=options.passes,
        generate=options.generate,
        embed=options.embed,
        cache=options.cache,
    )
    arguments = (model.model, model.args, model.kwargs)
    if options.tune:
        print(bridge.tune(*arguments, dynamic_shapes=model.dynamic_shapes, config=config), end="\n\n")
    compiled = bridge.compile(*arguments, dynamic_shapes=model.dynamic_shapes, config=config)
    compiled.save(output)
    print(_summary(output, compiled))
    return 0


def _report(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        log.say(f"[bridge] {text}")


def _summary(output: Path, compiled: "bridge.CompiledModule") -> str:
    file = compiled.file
    parameters, seconds = file.metadata.get("parameters"), file.metadata.get("build_seconds")
    plugins = ", ".join(f"{count} {op}" for op, count in compiled.plugin_counts().items()) or "none"
    rows = [
        ("saved", output),
        ("model", f"{file.metadata.get('model')}, {parameters:,} parameters"),
        ("engines", f"1, for {file.target}, {file.flavour} {file.tensorrt_version}"),
        ("plugin layers", plugins),
        ("size", size(len(file.engine))),
        ("build time", f"{seconds:.1f} s" + (", some time ago: from the cache" if compiled.from_cache else "")),
    ]
    return columns(rows, indent=0)
