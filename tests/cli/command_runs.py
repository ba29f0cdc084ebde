"""Runs of the command: within this process, and in one of their own."""

import json
import subprocess
import sys

from bridge import cli
from bridge.cli import command

# Loads the file as the module that a wheel installs beside the package.
OUTSIDE = """
import contextlib, importlib.util, io, json, sys
spec = importlib.util.spec_from_file_location("bridge_command", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
out, code = io.StringIO(), None
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    try:
        code = module.main(sys.argv[2:])
    except SystemExit as exit:
        code = exit.code
print(json.dumps([code, out.getvalue(), "torch" in sys.modules, "bridge" in sys.modules]))
"""


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def start(*arguments, **settings):
    line = [sys.executable, "-m", "bridge.cli", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def run_outside(*arguments):
    """(exit code, output, whether torch is imported, whether bridge is) of the module that starts the command."""
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, command.__file__, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
