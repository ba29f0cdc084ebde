"""`bridge export MODEL.py --to onnx`: a model file becomes an ONNX file."""

import argparse

import bridge
from bridge.base import log
from bridge.base.text import columns, size
from bridge.doors import model_file
from bridge.errors import EngineFileError
from bridge.export.onnx.result import OnnxFile

FORMAT = "onnx"
DESCRIPTION = "  onnx      a model file, not an engine, as an ONNX file with a node for each plugin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this format."""
    group = parser.add_argument_group("for onnx")
    group.add_argument("--target", metavar="SM", help="GPU that the plugins must have code for; default: the one here")
    group.add_argument("--weights", metavar="FILE", help="handed to the model file as --weights FILE")
    group.add_argument("--generate", action="store_true", help="make plugins of operators that ONNX lacks")


def own_options(options: argparse.Namespace) -> list[str]:
    """Those of its options that are given, for the formats that do not take them."""
    return [f"--{name}" for name in ("target", "weights", "generate") if getattr(options, name)]


def run(options: argparse.Namespace) -> int:
    """Runs it and returns its exit code. EngineFileError: the file given is no model file."""
    if options.model.endswith(".engine"):
        raise EngineFileError(
            f"{options.model} is an engine, and an ONNX file is made from the model: bridge export MODEL.py --to"
            f" onnx -o {options.output}"
        )
    model = model_file.load(options.model, options.model_argv, options.weights)
    log.say(f"[bridge] exporting {type(model.model).__name__}")
    written = bridge.export_onnx(
        model.model,
        model.args,
        model.kwargs,
        dynamic_shapes=model.dynamic_shapes,
        path=options.output,
        force=options.force,
        target=options.target,
        generate=options.generate,
    )
    print(_summary(written))
    return 0


def _summary(written: OnnxFile) -> str:
    nodes = ", ".join(f"{count} {op}" for op, count in written.plugins.items()) or "none"
    files = [("saved", f"{path}, {size(path.stat().st_size)}") for path in written.files]
    libraries = [("plugin library", path) for path in written.libraries]
    rows = [*files, ("plugin nodes", nodes), *libraries, ("trtexec", written.trtexec())]
    return columns(rows, indent=0)
