"""`bridge report`: an engine as a page for a browser."""

import argparse
from pathlib import Path

from bridge.cli.command import UsageError
from bridge.engine_file.contents import EngineFile

DESCRIPTION = (
    "Write one HTML page of an engine: the network as a picture, its layers, profile, graph rewrites, lowerings,\n"
    "plugins and libraries. The page loads nothing from a network. Needs no GPU.\n\n"
    "Example: bridge report net.engine -o net.html"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.usage = "bridge report FILE.engine [options]"
    add = parser.add_argument
    add("file", metavar="FILE.engine", help="of bridge compile, or of CompiledModule.save")
    add("-o", "--output", metavar="FILE.html", help="where to write the page; default: FILE.html here")
    add("--profile", metavar="FILE.json", help="times of layers: what `bridge run --profile --json` printed")


def run(options: argparse.Namespace) -> int:
    """Writes the page, prints its path and returns the exit code."""
    from bridge.engine.report import measured, page

    output = options.output or Path(options.file).with_suffix(".html").name
    file = EngineFile.load(options.file)
    try:
        rows = measured.read(options.profile, [layer["name"] for layer in file.layers]) if options.profile else []
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from None
    try:
        page.write(file, output, rows)
    except (OSError, ValueError) as error:  # ValueError: an invalid path
        raise UsageError(f"cannot write {output}: {getattr(error, 'strerror', None) or error}") from None
    print(output)
    return 0
