"""`bridge report`: an engine as a page for a browser."""

import argparse
from pathlib import Path

DESCRIPTION = (
    "Write one HTML page of an engine: the network as a picture, its layers, profile, graph rewrites, lowerings,\n"
    "plugins and libraries. The page loads nothing from a network. Needs no GPU.\n\n"
    "Example: bridge report net.engine -o net.html"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("file", metavar="FILE.engine")
    add("-o", "--output", metavar="FILE.html", help="where to write the page; default: FILE.html here")
    add("--profile", metavar="FILE.json", help="times of layers: what `bridge run --profile --json` printed")


def run(options: argparse.Namespace) -> int:
    """Writes the page, prints its path and returns the exit code."""
    from bridge.engine.report import page
    from bridge.engine_file.contents import EngineFile

    output = options.output or Path(options.file).with_suffix(".html").name
    page.write(EngineFile.load(options.file), output, options.profile)
    print(output)
    return 0
