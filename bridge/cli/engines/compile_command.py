"""`bridge compile`: a model file becomes an engine."""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bridge
from bridge.base import files, log
from bridge.base.text import as_json, columns, size
from bridge.cli.command import UsageError, integer
from bridge.cli.engines import example, shape_options
from bridge.doors import model_file
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.install.target import resolve_target

DESCRIPTION = (
    "Compile a model into one engine: that of a model file, or an exported program.\n\n"
    + (model_file.__doc__ or "").partition("\n\n")[2]
    + "\nExample: bridge compile models/relu_net.py --target sm86 -o relu_net.engine -- --max-batch 16"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.usage = (
        "bridge compile [options] MODEL.py[:function] [-- MODEL FLAGS]\n       bridge compile [options] PROGRAM.pt2"
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="FILE.py, with :function if that is not bridge_model; or FILE.pt2")
    add("--target", metavar="SM", help="GPU to build for, such as sm86; default: the GPU of this machine")
    add("-o", "--output", metavar="FILE", help="where to save the engine; default: MODEL.engine here")
    add("--plan", metavar="FILE", help="write the engine as TensorRT serialised it, too, for other runtimes")
    add("--dtype", choices=example.DTYPES, help="of the model and its floating-point inputs; default: as they are")
    add(
        "--shapes",
        type=shape_options.shapes("x:1x3/4x3/16x3, which is min/opt/max, or x:4x3", 1, 3),
        action=shape_options.Collect,
        default={},
        metavar="NAME:MIN/OPT/MAX",
        help="shapes of inputs, such as x:1x3x32x32/4x3x32x32/16x3x32x32,y:4x7; they replace the model file's "
        "dynamic_shapes, and an input that is not named has the example's shape",
    )
    add("--weights", metavar="FILE", help="handed to the model file as --weights FILE")
    add("--flavour", choices=("tensorrt", "tensorrt_rtx"), help="refuse to build with the other one")
    add(
        "--optimization-level", type=int, choices=range(6), metavar="0..5", help="TensorRT's builder optimization level"
    )
    add(
        "--workspace-size",
        type=integer("positive number of bytes", 1),
        metavar="BYTES",
        help="the most scratch memory that a layer may use",
    )
    add("--no-cache", dest="cache", action="store_false", help="neither take the engine from the cache nor keep it")
    add(
        "--no-tuned-profile",
        dest="tuned_profile",
        action="store_false",
        help="no kernels for the example's shapes alone: a shorter build",
    )
    add("--no-tf32", dest="tf32", action="store_false", help="compute float32 in float32, not in TF32")
    add("--lowering", type=_lowering, default="auto", metavar="WAY", help="plugin, native, auto, or OP=WAY,OP=WAY")
    add("--passes", type=_passes, default=True, metavar="NAMES", help="graph rewrites: on, off, or NAME,NAME")
    add("--generate", action="store_true", help="make plugins of the operators that TensorRT lacks")
    add("--embed", action="store_true", help="put the plugin libraries into the plan")
    add("--tune", action="store_true", help="first measure, on this GPU, lowerings and autotuned kernels")
    add("--json", action="store_true", help="say what was built as JSON")
    add("-q", "--quiet", action="store_true", help="report no progress")
    add("-v", "--verbose", action="count", default=0, help="say what each step took; -vv: also where each node went")


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
    _check_files(output, options.plan)
    resolve_target(detect(options.flavour), options.target)  # before minutes are spent on the model
    model = _load(options)
    _report(options, f"compiling {type(model.model).__name__} for {options.target or 'the GPU of this machine'}")
    config = bridge.Config(
        target=options.target,
        flavour=options.flavour,
        progress=not options.quiet,
        optimization_level=options.optimization_level,
        workspace_size=options.workspace_size,
        tf32=options.tf32,
        tuned_profile=options.tuned_profile,
        lowering=options.lowering,
        passes=options.passes,
        generate=options.generate,
        embed=options.embed,
        cache=options.cache,
    )
    arguments = (model.model, model.args, model.kwargs)
    if options.tune:
        tuning = bridge.tune(*arguments, dynamic_shapes=model.dynamic_shapes, config=config)
        (log.say if options.json else print)(f"{tuning}\n")
    compiled = bridge.compile(*arguments, dynamic_shapes=model.dynamic_shapes, config=config)
    compiled.save(output)
    if options.plan:
        with files.replacing(Path(options.plan)) as file:
            file.write(compiled.engine)
    print(as_json(_values(options, output, compiled)) if options.json else _summary(options, output, compiled))
    return 0


def _check_files(output: Path, plan: str | None) -> None:
    """UsageError: a file cannot be written, or would be overwritten by the other."""
    for path in (output, *([Path(plan)] if plan else [])):
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent} to save {path.name} in")
    if plan and output.resolve() == Path(plan).resolve():
        raise UsageError(f"the engine file and the plan are both to be {plan}; name the plan otherwise")


def _load(options: argparse.Namespace) -> model_file.Model:
    """The model, as the flags change it."""
    _report(options, f"loading {options.model}")
    model = model_file.load(options.model, options.model_argv, options.weights)
    if options.dtype:
        model = example.in_dtype(model, options.dtype)
    return example.in_shapes(model, options.shapes) if options.shapes else model


def _report(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        log.say(f"[bridge] {text}")


def _values(options: argparse.Namespace, output: Path, compiled: "bridge.CompiledModule") -> dict[str, Any]:
    """What was built, as JSON values; sizes in bytes."""
    file = compiled.file
    return {
        "file": str(output),
        "plan": options.plan,
        "model": file.metadata.get("model"),
        "parameters": file.metadata.get("parameters"),
        "target": file.target,
        "flavour": file.flavour,
        "tensorrt_version": file.tensorrt_version,
        "plugins": dict(compiled.plugin_counts()),
        "inputs": [asdict(spec) for spec in file.inputs],
        "outputs": [asdict(spec) for spec in file.outputs],
        "size": len(file.engine),
        "build_seconds": file.metadata.get("build_seconds"),
        "from_cache": compiled.from_cache,
    }


def _summary(options: argparse.Namespace, output: Path, compiled: "bridge.CompiledModule") -> str:
    values = _values(options, output, compiled)
    plugins = ", ".join(f"{count} {op}" for op, count in values["plugins"].items()) or "none"
    rows = [
        ("saved", values["file"]),
        *([("plan", values["plan"])] if values["plan"] else []),
        ("model", f"{values['model']}, {values['parameters']:,} parameters"),
        ("engines", f"1, for {values['target']}, {values['flavour']} {values['tensorrt_version']}"),
        ("plugin layers", plugins),
        ("size", size(values["size"])),
        (
            "build time",
            f"{values['build_seconds']:.1f} s" + (", some time ago: from the cache" if values["from_cache"] else ""),
        ),
    ]
    return columns(rows, indent=0)
