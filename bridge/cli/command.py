"""The `bridge` command.

Exit codes, for scripts:

    0    done
    1    it did not work: `bridge doctor` found nothing usable, a model file failed, a bug
    2    the command line is wrong: a flag, or a name, target, model or input that does not exist or fit
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
import difflib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Sequence
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
    "run": "run an engine: latency, throughput, layers, outputs",
    "verify": "check an engine, its libraries and this machine",
    "export": "write what machines without bridge need to run an engine",
    "new": "a package with an op of your own, to start from",
    "cmake-dir": "print the folder of bridge's CMake package",
    "completion": "print what completes commands and flags in your shell",
}
SHELLS = ("bash", "zsh", "fish")
FLAGS = "cli/flags.jsonl"  # in the package: the arguments of every command, one a line; see tests/support/public_api.py
_NOT_INSTALLED = 7


class UsageError(Exception):
    """The command line is wrong, as the command itself finds out."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with its own usage, not with that of the whole, and with the nearest name."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is unknown is an error here, where it is known which flags there are."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_did_you_mean(unknown[0].split('=')[0], flags)}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(
                action, f"{error.message}{_did_you_mean(str(value), map(str, action.choices or ()))}"
            ) from None


def integer(what: str, least: int, most: int | None = None) -> Callable[[str], int]:
    """A type for argparse: integers from `least` to `most`. what: errors call them so, as in "number of bytes"."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return int(text)

    return parse


def _did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """As bridge.base.text has it, which cannot be imported without torch."""
    near = difflib.get_close_matches(wanted, list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; what names no command is answered without torch."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not names_command(arguments):
        _parse(arguments)  # exits
    if (name := _command(arguments)) in _WITHOUT_TORCH:
        return _WITHOUT_TORCH[name](_parse(arguments))
    from bridge.cli import main as run

    return run(arguments)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    return parser(importlib.metadata.version("bridge-tensorrt"))[0].parse_args(arguments)


def cmake_dir() -> int:
    """Prints the folder with bridgeConfig.cmake, for CMake's bridge_DIR; returns an exit code."""
    found = _file_of_package("sdk/include/bridge/cmake/bridgeConfig.cmake")
    if found is None:
        print("bridge: no CMake package is installed with bridge: install it again", file=sys.stderr)
        return _NOT_INSTALLED
    print(found.parent)
    return 0


def completion(shell: str) -> int:
    """Prints a script that completes commands, flags, choices and files in a shell; returns an exit code."""
    try:
        import shtab
    except ImportError:
        print("bridge: completion is written by shtab, which is not installed: pip install shtab", file=sys.stderr)
        return _NOT_INSTALLED
    record = _file_of_package(FLAGS)
    if record is None:
        print(f"bridge: {FLAGS} is not installed with bridge: install it again", file=sys.stderr)
        return _NOT_INSTALLED
    whole, commands = parser(importlib.metadata.version("bridge-tensorrt"))
    groups: dict[str, Any] = {}
    for line in record.read_text().splitlines():
        row = json.loads(line)
        outer, _, name = row["command"].rpartition(" ")
        if "dest" in row:
            action: Any = commands[row["command"]].add_argument(*(row["flags"] or [row["dest"]]), **row["settings"])
            if row["completes"]:
                action.complete = {"file": shtab.FILE, "folder": shtab.DIRECTORY}[row["completes"]]
        else:  # a command within another one
            groups[outer] = groups.get(outer) or commands[outer].add_subparsers(metavar=row["metavar"])
            commands[row["command"]] = groups[outer].add_parser(name, help=row["help"])
    print(shtab.complete(whole, shell))
    return 0


_WITHOUT_TORCH: dict[str, Callable[[argparse.Namespace], int]] = {
    "cmake-dir": lambda options: cmake_dir(),
    "completion": lambda options: completion(options.shell),
}


def _file_of_package(path: str) -> Path | None:
    """A file in one of the package's folders, found without its import."""
    spec = importlib.util.find_spec("bridge")
    candidates = [Path(folder, path) for folder in spec.submodule_search_locations or ()] if spec else []
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def names_command(arguments: Sequence[str]) -> bool:
    """Whether the first argument that is no option is a command."""
    return _command(arguments) in COMMANDS


def _command(arguments: Sequence[str]) -> str:
    return next((each for each in arguments if not each.startswith("-")), "")


def parser(version: str) -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command, and those of the single commands, which know only --debug yet."""
    raw = argparse.RawDescriptionHelpFormatter
    codes = (__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0]
    whole = Parser(
        "bridge", description="Compile PyTorch models with operators of their own.", epilog=codes, formatter_class=raw
    )
    whole.add_argument("--version", action="version", version=f"bridge {version}")
    whole.add_argument("--debug", action="store_true", help="show tracebacks")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    adder: Any = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {
        name: adder.add_parser(name, parents=[shared], help=about, formatter_class=raw)
        for name, about in COMMANDS.items()
    }
    commands["completion"].add_argument("shell", choices=SHELLS, help="whose script to print")
    return whole, commands
