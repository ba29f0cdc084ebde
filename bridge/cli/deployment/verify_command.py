"""`bridge verify`: an engine file or an exported folder, its libraries and this machine."""

import argparse
from pathlib import Path

from bridge.base.text import as_json, columns
from bridge.export.verify import Check, verify

DESCRIPTION = (
    "Check that an engine file, or a folder that `bridge export` wrote, is whole, that its plugin libraries are here,\n"
    "and that this machine can run it. Nothing is changed, and no engine is loaded. It does not say who wrote it.\n\n"
    "The exit code is 0, or that of the first check that fails.\n\n"
    "Example: bridge verify relu_net.engine"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("path", metavar="MODEL.engine|FOLDER", type=Path)
    parser.add_argument("--files", action="store_true", help="check the files alone, not this machine")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the checks and returns 0; the first error is raised, and becomes the exit code."""
    checks = verify(options.path, machine=not options.files)
    print(as_json([_row(check) for check in checks]) if options.json else _text(checks))
    for check in checks:
        if check.error is not None:
            raise check.error
    return 0


def _row(check: Check) -> dict[str, object]:
    return {"check": check.name, "passed": check.passed, "detail": check.detail}


def _text(checks: list[Check]) -> str:
    rows = [("ok" if each.passed else "FAILED", each.name, each.detail) for each in checks]
    return columns(rows, indent=0, styles={"ok": "green", "FAILED": "red"})
