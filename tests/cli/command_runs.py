"""Runs of the command: within this process, and in one of their own."""

import subprocess
import sys

from bridge import cli


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def start(*arguments, **settings):
    command = [sys.executable, "-m", "bridge.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)
