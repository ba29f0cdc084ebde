"""What each command of `bridge` does; bridge/command.py starts it, and lists the exit codes."""

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import bridge
from bridge import cli_bench, cli_cache, cli_zoo, command, errors, log, model_file
from bridge.table import as_json

_NOTHING_WORKS, _USAGE, _INTERRUPTED = 1, 2, 130
_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.TargetError, _USAGE),
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
        code = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that exit does not flush into it again
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED, options.debug)
    except errors.BridgeError as error:
        code = next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
        return _fail(str(error), code, options.debug)
    except Exception as error:
        hint = "" if options.debug else "\nThis should not happen; --debug shows where."
        return _fail(f"{type(error).__name__}: {error}{hint}", 1, options.debug)


def _show_everything() -> None:
    """Lets the terminal's encoding lack letters of what is printed: they are shown as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int, debug: bool) -> int:
    if debug and log.has_stderr():
        traceback.print_exc()
    log.say(f"bridge: {message}")
    return code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    own, model_argv = _split_at_dashes(argv)
    parser = _parser()
    options = parser.parse_args(own)
    if model_argv and options.command != "compile" and not getattr(options, "lowerings", None):
        parser.error(f"{options.command} takes nothing after --: {' '.join(model_argv)}")
    options.model_argv = model_argv
    return options


def _split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(argv)
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser, commands = command.parser(bridge.__version__)
    for name, (add, run, description) in _COMMANDS.items():
        commands[name].description = description
        commands[name].set_defaults(run=run)
        add(commands[name])
    return parser


# bridge doctor


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)


def _doctor(options: argparse.Namespace) -> int:
    from bridge.doctor import examine

    report = examine()
    print(as_json(report.as_json()) if options.json else report)
    return 0 if report.usable else _NOTHING_WORKS


# bridge ops


def _add_ops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("op", nargs="?", metavar="OP", help="one op, with its whole documentation")
    _add_json(parser)


def _ops(options: argparse.Namespace) -> int:
    from bridge import op_table

    rows = op_table.rows([options.op] if options.op else None)
    if options.json:
        print(as_json(rows))
    else:
        print(op_table.detail(rows[0]) if options.op else op_table.text(rows))
    return 0


# bridge compile


def _add_compile(parser: argparse.ArgumentParser) -> None:
    parser.usage = "bridge compile [options] MODEL.py[:function] [-- MODEL FLAGS]"
    add = parser.add_argument
    add("model", metavar="MODEL.py[:function]", help="the model file, and its function if not bridge_model")
    add("--target", metavar="SM", help="GPU to build for, such as sm86; default: the GPU of this machine")
    add("-o", "--output", metavar="FILE", help="where to save the engine; default: MODEL.engine here")
    add("--weights", metavar="FILE", help="handed to the model file as --weights FILE")
    add("--flavour", choices=("tensorrt", "tensorrt_rtx"), help="refuse to build with the other one")
    add(
        "--optimization-level", type=int, choices=range(6), metavar="0..5", help="TensorRT's builder optimization level"
    )
    add("--workspace-size", type=_bytes, metavar="BYTES", help="the most scratch memory that a layer may use")
    add("--no-cache", dest="cache", action="store_false", help="neither take the engine from the cache nor keep it")
    add("--no-tf32", dest="tf32", action="store_false", help="compute float32 in float32, not in TF32")
    add("--lowering", type=_lowering, default="auto", metavar="WAY", help="plugin, native, auto, or OP=WAY,OP=WAY")
    add("--passes", type=_passes, default=True, metavar="NAMES", help="graph rewrites: on, off, or NAME,NAME")
    add("--tune", action="store_true", help="first measure, on this GPU, which lowering of each op is faster")
    add("-q", "--quiet", action="store_true", help="report no progress")
    add("-v", "--verbose", action="count", default=0, help="say what each step took; -vv: also where each node went")


def _bytes(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of bytes")
    return int(text)


def _lowering(text: str) -> str | dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    value = {op: way for op, _, way in parts} if "=" in text else text
    try:
        bridge.Config(lowering=value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _passes(text: str) -> bool | list[str]:
    value = {"on": True, "off": False}.get(text, text.split(","))
    try:
        bridge.Config(passes=value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _compile(options: argparse.Namespace) -> int:
    if options.verbose:
        log.show(logging.INFO if options.verbose == 1 else logging.DEBUG)
    output = Path(options.output or f"{model_file.stem(options.model)}.engine")
    if not output.parent.is_dir():
        return _fail(f"there is no folder {output.parent} to save {output.name} in", _USAGE, debug=False)
    _report(options, f"loading {options.model}")
    weights = ["--weights", options.weights] if options.weights else []
    model = model_file.load(options.model, [*weights, *options.model_argv])
    _report(options, f"compiling {type(model.model).__name__} for {options.target or 'the GPU of this machine'}")
    config = bridge.Config(
        target=options.target,
        flavour=options.flavour,
        progress=not options.quiet,
        optimization_level=options.optimization_level,
        workspace_size=options.workspace_size,
        tf32=options.tf32,
        lowering=options.lowering,
        passes=options.passes,
        cache=options.cache,
    )
    arguments = (model.model, model.args, model.kwargs)
    if options.tune:
        print(bridge.tune(*arguments, dynamic_shapes=model.dynamic_shapes, config=config), end="\n\n")
    compiled = bridge.compile(*arguments, dynamic_shapes=model.dynamic_shapes, config=config)
    compiled.save(output)
    print(_summary(output, compiled))
    return 0


def _report(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        log.say(f"[bridge] {text}")


def _summary(output: Path, compiled: "bridge.CompiledModule") -> str:
    from bridge.table import columns, size

    file = compiled.file
    parameters, seconds = file.metadata.get("parameters"), file.metadata.get("build_seconds")
    plugins = ", ".join(f"{count} {op}" for op, count in compiled.plugin_counts().items()) or "none"
    rows = [
        ("saved", output),
        ("model", f"{file.metadata.get('model')}, {parameters:,} parameters"),
        ("engines", f"1, for {file.target}, {file.flavour} {file.tensorrt_version}"),
        ("plugin layers", plugins),
        ("size", size(len(file.engine))),
        ("build time", f"{seconds:.1f} s" + (", some time ago: from the cache" if compiled.from_cache else "")),
    ]
    return columns(rows, indent=0)


# bridge explain


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.engine")
    parser.add_argument("--nodes", action="store_true", help="list which layers each node of the model's graph became")
    parser.add_argument("--layers", action="store_true", help="list every layer of the network")
    _add_json(parser)


def _explain(options: argparse.Namespace) -> int:
    from bridge.explain import describe, explain
    from bridge.tensorrt.engine_file import EngineFile

    file = EngineFile.load(options.file)
    print(as_json(describe(file)) if options.json else explain(file, every_layer=options.layers, nodes=options.nodes))
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
        _add_compile,
        _compile,
        "Compile the model of a model file into one engine.\n\n"
        + (model_file.__doc__ or "").partition("\n\n")[2]
        + "\nExample: bridge compile models/relu_net.py --target sm86 -o relu_net.engine -- --max-batch 16",
    ),
    "bench": (
        cli_bench.add_arguments,
        cli_bench.run,
        "Errors against fp32 first, then GPU time by CUDA graph replay with a warm and a cold L2 cache, beside what\n"
        "memory and arithmetic allow as measured in the same run, and beside every peer that is installed.\n\n"
        "Example: bridge bench --lowerings models/llama.py models/resnet_dcn.py --json lowerings.json -- --max-batch 4",
    ),
    "zoo": (
        cli_zoo.add_arguments,
        cli_zoo.run,
        "One engine of each, for this GPU or another one; on a GPU also its difference from eager, and its time\n"
        "beside those of eager, Inductor and torch_tensorrt without bridge. Each model has a process of its own.\n\n"
        "Example: bridge zoo --full --filter detr --json zoo.json",
    ),
    "cache": (
        cli_cache.add_arguments,
        cli_cache.run,
        "Lists, removes or checks the engines that bridge.compile and torch.compile keep on disk.",
    ),
    "explain": (
        _add_explain,
        _explain,
        "Inputs with their profile, outputs, layers, plugin layers with their attributes, and which node of the graph\n"
        "went where. Needs no GPU.",
    ),
}


if __name__ == "__main__":
    sys.exit(main())
