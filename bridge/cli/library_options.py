"""What the commands share that take a library: which one, and where its samples are."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from bridge.core import libraries
from bridge.core.signature import NAMESPACE
from bridge.errors import LibraryError


def add_library(parser: argparse.ArgumentParser) -> None:
    """The flags that name a library."""
    parser.add_argument("--library", default=NAMESPACE, metavar="NAMESPACE", help="whose ops; default: bridge's own")
    parser.add_argument(
        "--import",
        dest="module",
        metavar="MODULE",
        help="import this first: of a library that is not installed",
    )


def add_samples(parser: argparse.ArgumentParser) -> None:
    """The flag that says where samples are."""
    parser.add_argument("--samples", metavar="FOLDER", help="or package, of samples; default: beside the ops")


def library_of(options: argparse.Namespace) -> Any:
    """The library that the flags name. LibraryError: there is none, or a module does not import."""
    if options.module:
        sys.path.insert(0, str(Path.cwd()))
        try:
            importlib.import_module(options.module)
        except ImportError as error:
            raise LibraryError(f"{options.module} does not import: {error}") from error
    return libraries.library(options.library)
