"""`bridge export`: an engine leaves the machine."""

import argparse
from pathlib import Path

from bridge.base.text import columns, size
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineFileError
from bridge.export.formats import FORMATS, Options, export

DESCRIPTION = (
    "Write what machines without bridge need to run an engine.\n\n"
    "  plan      the engine as TensorRT serialised it\n"
    "  folder    the plan, its plugin libraries, a manifest, and a README with the commands to run it\n\n"
    "The folder appears when it is complete, and holds code: whoever runs it trusts whoever wrote it.\n\n"
    "Example: bridge export relu_net.engine --to folder -o relu_net"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("model", metavar="MODEL.engine", help="what `bridge compile` wrote")
    add("--to", choices=tuple(FORMATS), default="folder", help="what to write; default: folder")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add("--embed", action="store_true", help="refuse a plan that does not hold its plugin libraries")
    add("--force", action="store_true", help="replace what is in the folder")
    add("--name", default="model", metavar="NAME", help="of the model, as servers call it; default: model")


def run(options: argparse.Namespace) -> int:
    """Exports, lists the files, and returns the exit code."""
    file = EngineFile.load(options.model)
    if options.embed and file.plugins and not file.embeds_libraries:
        raise EngineFileError(
            f"{options.model}: the plan holds no plugin library; one is put into it when it is built, by "
            "`bridge compile --embed` or embed=True"
        )
    settings = Options(name=options.name)
    paths = export(file, options.output, options.to, force=options.force, options=settings)
    print(columns([(path, size(path.stat().st_size)) for path in paths], indent=0))
    return 0
