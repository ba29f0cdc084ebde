"""`bridge test`: every check of every op of a library."""

import argparse

from bridge.base import log
from bridge.cli import library_options
from bridge.cli.command import UsageError

DESCRIPTION = (
    "Runs every check of bridge.testing on the samples of each op, and prints what failed, what passed, and what\n"
    "could not be checked here. Exit code 1: a check failed.\n\n"
    "Example: bridge test --library acme --target sm86"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: every op of the library")
    library_options.add_library(parser)
    library_options.add_samples(parser)
    parser.add_argument("--few", type=int, default=3, metavar="N", help="samples of an op that slow checks take")
    parser.add_argument("--target", metavar="SM", help="build engines for this GPU, such as sm86; default: this one")


def run(options: argparse.Namespace) -> int:
    """Checks, and returns 1 where a check failed."""
    from bridge.testing import LibraryCheckError, Result, check_library
    from bridge.testing.report import FAILED

    def progress(result: Result) -> None:
        if result.outcome == FAILED:
            log.say(str(result))

    library = library_options.library_of(options)
    settings = {"samples": options.samples, "few": options.few, "target": options.target}
    try:
        print(check_library(library, options.ops, progress=progress, **settings))
    except LibraryCheckError as error:
        print(error)
        return 1
    except ValueError as error:
        raise UsageError(str(error)) from error
    return 0
