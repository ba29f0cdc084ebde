"""What each command of `bridge` does; bridge/cli/command.py starts it, and lists the exit codes."""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence

import bridge
from bridge import errors
from bridge.base import log, terminal
from bridge.base.text import as_json
from bridge.cli import (
    bench_command,
    cache_command,
    command,
    export_command,
    new_command,
    sanitize_command,
    test_command,
    zoo_command,
)
from bridge.cli.deployment import verify_command
from bridge.cli.engines import compile_command, report_command, run_command
from bridge.cli.generated import build_ops_command, eject_command

_NOTHING_WORKS, _USAGE, _INTERRUPTED = 1, 2, 130
_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (command.UsageError, _USAGE),
    (errors.TargetError, _USAGE),
    (errors.UnknownNameError, _USAGE),
    (errors.EngineInputError, _USAGE),
    (errors.UnsupportedOpError, 3),
    (errors.BuildError, 4),
    (errors.EngineFileError, 5),
    (errors.ExportError, 6),
    (errors.FlavourError, 7),
    (errors.LibraryError, 7),
    (errors.EngineError, 7),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    _show_everything()
    options = _parse(sys.argv[1:] if argv is None else argv)
    try:
        with terminal.shown_on(sys.stdout):
            code = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that exit does not flush into it again
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED, options)
    except (errors.BridgeError, command.UsageError) as error:
        code = next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
        return _fail(str(error), code, options)
    except Exception as error:
        hint = "" if options.debug else "\nThis should not happen; --debug shows where."
        return _fail(f"{type(error).__name__}: {error}{hint}", 1, options)


def _show_everything() -> None:
    """Lets the terminal's encoding lack letters of what is printed: they are shown as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int, options: argparse.Namespace) -> int:
    if options.debug and log.has_stderr():
        traceback.print_exc()
    if code == _USAGE:  # as argparse says it
        log.say(f"{options.parser.format_usage()}{_prefix(f'{options.parser.prog}: error:')} {message}")
    else:
        log.say(f"{_prefix('bridge:')} {message}")
    return code


def _prefix(text: str) -> str:
    return terminal.styled(text, "bold red", sys.stderr)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    own, model_argv = _split_at_dashes(argv)
    options = _parser().parse_args(own)
    if model_argv and not _takes_model_flags(options) and not getattr(options, "lowerings", None):
        options.parser.error(f"{options.command} takes nothing after --: {' '.join(model_argv)}")
    options.model_argv = model_argv
    return options


def _takes_model_flags(options: argparse.Namespace) -> bool:
    return options.command == "compile" or getattr(options, "to", None) == "onnx"


def _split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(argv)
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser, commands = command.parser(bridge.__version__)
    for name, (add, run, description) in _COMMANDS.items():
        commands[name].description = description
        commands[name].set_defaults(run=run, parser=commands[name])
        add(commands[name])
    return parser


# bridge doctor


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)


def _doctor(options: argparse.Namespace) -> int:
    from bridge.cli.doctor import examine

    report = examine()
    print(as_json(report.as_json()) if options.json else report)
    return 0 if report.usable else _NOTHING_WORKS


# bridge ops


def _add_ops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("op", nargs="?", metavar="OP", help="one op, with its whole documentation")
    parser.add_argument("--generated", action="store_true", help="the generated plugins in the cache, instead")
    _add_json(parser)


def _ops(options: argparse.Namespace) -> int:
    from bridge.cli import op_table
    from bridge.cli.generated import table
    from bridge.core import libraries

    if options.generated:
        generated = table.rows(options.op)
        print(as_json(generated) if options.json else table.text(generated))
        return 0
    rows = op_table.rows([options.op] if options.op else None)
    if options.json:
        print(as_json(rows))
    else:
        print(op_table.detail(rows[0]) if options.op else op_table.text(rows))
        for name, reason in libraries.BROKEN.items():
            print(f"\n{name}: this library does not import: {reason}")
    return 0


# bridge explain


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.engine")
    parser.add_argument("--nodes", action="store_true", help="list which layers each node of the model's graph became")
    parser.add_argument("--layers", action="store_true", help="list every layer, and the kernels of generated plugins")
    _add_json(parser)


def _explain(options: argparse.Namespace) -> int:
    from bridge.engine.explain import as_json_values, explain
    from bridge.engine_file.contents import EngineFile

    file = EngineFile.load(options.file)
    print(
        as_json(as_json_values(file))
        if options.json
        else explain(file, every_layer=options.layers, nodes=options.nodes)
    )
    return 0


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


_COMMANDS = {
    "doctor": (
        _add_doctor,
        _doctor,
        "Versions, GPUs, libraries, and what works here. Exit code 0 if engines can be built or run here.",
    ),
    "ops": (_add_ops, _ops, "Every op: schema, dtypes, how it is lowered to TensorRT, what it is."),
    "compile": (
        compile_command.add_arguments,
        compile_command.run,
        compile_command.DESCRIPTION,
    ),
    "build-ops": (
        build_ops_command.add_arguments,
        build_ops_command.run,
        build_ops_command.DESCRIPTION,
    ),
    "eject": (eject_command.add_arguments, eject_command.run, eject_command.DESCRIPTION),
    "bench": (
        bench_command.add_arguments,
        bench_command.run,
        "Errors against fp32 first, then GPU time by CUDA graph replay with a warm and a cold L2 cache, beside what\n"
        "memory and arithmetic allow as measured in the same run, and beside every peer that is installed.\n\n"
        "Example: bridge bench --lowerings models/llama.py models/resnet_dcn.py --json lowerings.json -- --max-batch 4",
    ),
    "test": (test_command.add_arguments, test_command.run, test_command.DESCRIPTION),
    "sanitize": (sanitize_command.add_arguments, sanitize_command.run, sanitize_command.DESCRIPTION),
    "zoo": (
        zoo_command.add_arguments,
        zoo_command.run,
        "One engine of each, for this GPU or another one; on a GPU also its difference from eager, and its time\n"
        "beside those of eager, Inductor and torch_tensorrt without bridge. Each model has a process of its own.\n\n"
        "Example: bridge zoo --full --filter detr --json zoo.json",
    ),
    "cache": (
        cache_command.add_arguments,
        cache_command.run,
        "Lists, removes or checks the engines that bridge.compile and torch.compile keep on disk.",
    ),
    "explain": (
        _add_explain,
        _explain,
        "Inputs with their profile, outputs, layers, plugin layers with their attributes, and which node of the graph\n"
        "went where. Needs no GPU.",
    ),
    "report": (report_command.add_arguments, report_command.run, report_command.DESCRIPTION),
    "run": (run_command.add_arguments, run_command.run, run_command.DESCRIPTION),
    "verify": (verify_command.add_arguments, verify_command.run, verify_command.DESCRIPTION),
    "export": (export_command.add_arguments, export_command.run, export_command.DESCRIPTION),
    "new": (
        new_command.add_arguments,
        new_command.run,
        new_command.DESCRIPTION,
    ),
    "cmake-dir": (
        lambda parser: None,
        lambda options: command.cmake_dir(),
        "For builds of libraries of ops: cmake -Dbridge_DIR=$(bridge cmake-dir)",
    ),
    "completion": (
        lambda parser: None,  # bridge/cli/command.py has its argument
        lambda options: command.completion(options.shell),
        "The script is static: it starts no Python when it completes.\n\n"
        "bash: bridge completion bash > ~/.local/share/bash-completion/completions/bridge\n"
        "zsh:  bridge completion zsh > a folder of $fpath/_bridge\n"
        "fish: bridge completion fish > ~/.config/fish/completions/bridge.fish",
    ),
}
