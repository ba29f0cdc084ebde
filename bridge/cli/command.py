"""The `bridge` command.

Exit codes, for scripts:

    0    done
    1    it did not work: `bridge doctor` found nothing usable, a model file failed, a bug
    2    the command line is wrong, a target that does not exist included
    3    the model holds an operator that cannot be part of the engine
    4    TensorRT refused the network
    5    the engine file is missing, damaged, or no engine file
    6    torch.export cannot capture the model
    7    something is not installed, or not fit for this: TensorRT, the native libraries
    130  interrupted

Results go to stdout, progress and errors to stderr. What a model file is, bridge/doors/model_file.py says.
"""

# This file is installed twice: within bridge, and as the module `bridge_command`, where the command starts. It imports
# nothing of bridge's before a command is named, because `import bridge` imports torch, which takes seconds.

import argparse
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMANDS = {
    "doctor": "what is installed, what works, what to install",
    "ops": "the operators",
    "compile": "compile a model file into an engine",
    "build-ops": "make libraries of generated plugins, to ship",
    "eject": "make a generated plugin a project of your own",
    "bench": "measure the ops on this GPU, beside what others have",
    "test": "every check of the ops of a library",
    "sanitize": "the kernels of a library under compute-sanitizer, on this GPU",
    "zoo": "compile the models in models/, and measure them",
    "cache": "the engines that are kept on disk",
    "explain": "what is in an engine",
    "report": "the same as a page for a browser, with a picture of the network",
    "new": "a package with an op of your own, to start from",
    "cmake-dir": "print the folder of bridge's CMake package",
}
_NOT_INSTALLED = 7


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; what names no command is answered without torch."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not names_command(arguments):
        _parse(arguments)  # exits
    if "cmake-dir" in arguments and _parse(arguments).command == "cmake-dir":
        return cmake_dir()
    from bridge.cli import main as run

    return run(arguments)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    return parser(importlib.metadata.version("bridge-tensorrt"))[0].parse_args(arguments)


def cmake_dir() -> int:
    """Prints the folder with bridgeConfig.cmake, for CMake's bridge_DIR; returns an exit code."""
    spec = importlib.util.find_spec("bridge")
    folders = [Path(each, "sdk/include/bridge/cmake") for each in spec.submodule_search_locations or ()] if spec else []
    found = next((folder for folder in folders if (folder / "bridgeConfig.cmake").is_file()), None)
    if found is None:
        print("bridge: no CMake package is installed with bridge: install it again", file=sys.stderr)
        return _NOT_INSTALLED
    print(found)
    return 0


def names_command(arguments: Sequence[str]) -> bool:
    """Whether the first argument that is no option is a command."""
    return next((each for each in arguments if not each.startswith("-")), None) in COMMANDS


def parser(version: str) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command, and those of the single commands, which know only --debug yet."""
    raw = argparse.RawDescriptionHelpFormatter
    codes = (__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0]
    whole = argparse.ArgumentParser(
        "bridge", description="Compile PyTorch models with operators of their own.", epilog=codes, formatter_class=raw
    )
    whole.add_argument("--version", action="version", version=f"bridge {version}")
    whole.add_argument("--debug", action="store_true", help="show tracebacks")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    commands: Any = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    return whole, {
        name: commands.add_parser(name, parents=[shared], help=about, formatter_class=raw)
        for name, about in COMMANDS.items()
    }
