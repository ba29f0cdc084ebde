"""`bridge export`: an engine leaves the machine."""

import argparse
from pathlib import Path

from bridge.base.text import columns, size
from bridge.cli.command import UsageError, integer
from bridge.cli.deployment import onnx_export
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineFileError
from bridge.export.formats import FORMATS, export
from bridge.export.options import Options
from bridge.export.triton.repository import check_name

_INSTANCES = integer("number from 1 to 64", 1, 64)
DESCRIPTION = (
    "Write what machines without bridge need to run an engine.\n\n"
    "  plan      the engine as TensorRT serialised it\n"
    "  folder    the plan, its plugin libraries, a manifest, and a README with the commands to run it\n"
    "  triton    a model repository of Triton Inference Server, with a README that has the command to start it\n"
    f"{onnx_export.DESCRIPTION}\n\n"
    "The folder appears when it is complete, and holds code: whoever runs it trusts whoever wrote it.\n\n"
    "Example: bridge export relu_net.engine --to folder -o relu_net"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("model", metavar="MODEL.engine", help="what `bridge compile` wrote; MODEL.py[:function] for onnx")
    add("--to", choices=(*FORMATS, onnx_export.FORMAT), default="folder", help="what to write; default: folder")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="a new or empty folder; a file for onnx")
    add("--embed", action="store_true", help="refuse a plan that does not hold its plugin libraries")
    add("--force", action="store_true", help="replace what is there")
    add("--name", type=_name, default="model", metavar="NAME", help="of the model, as servers call it; default: model")
    triton = parser.add_argument_group("--to triton").add_argument
    triton("--instances", type=_INSTANCES, default=1, metavar="N", help="of the model on each GPU; default: 1")
    triton("--warm-up", action="store_true", help="run the tuned shapes before the model is ready")
    triton(
        "--dynamic-batching",
        action="store_true",
        help="let the server join the rows of several requests; no row's result may depend on another row",
    )
    onnx_export.add_arguments(parser)


def _name(text: str) -> str:
    try:
        check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(options: argparse.Namespace) -> int:
    """Exports, lists the files, and returns the exit code."""
    if options.to == onnx_export.FORMAT:
        return onnx_export.run(options)
    if wrong := onnx_export.own_options(options):
        raise UsageError(f"{', '.join(wrong)} is for --to {onnx_export.FORMAT}: an engine is made already")
    file = EngineFile.load(options.model)
    if options.embed and file.plugins and not file.embeds_libraries:
        raise EngineFileError(
            f"{options.model}: the plan holds no plugin library; one is put into it when it is built, by "
            "`bridge compile --embed` or embed=True"
        )
    settings = Options(options.name, options.instances, options.dynamic_batching, options.warm_up)
    paths = export(file, options.output, options.to, force=options.force, options=settings)
    print(columns([(path, size(path.stat().st_size)) for path in paths], indent=0))
    return 0
