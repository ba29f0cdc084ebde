"""Lists what users of bridge rely on, one line each: names, signatures, exceptions, commands and flags.

    python tests/support/public_api.py    writes tests/support/public_api.txt, and bridge/cli/flags.jsonl

Types appear without the modules that they are defined in: those may move.
"""

import argparse
import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import bridge
import bridge.testing
from bridge import cli, errors, native
from bridge.cli import command
from bridge.core.op import written

RECORD = Path(__file__).with_suffix(".txt")
FLAGS = Path(bridge.__file__).parent / command.FLAGS
_RECORDED_ELSEWHERE = {"help", "debug", "command", "shell"}  # in bridge/cli/command.py
_FILES = {"FOLDER": "folder", "DIR": "folder", "FILE": "file", "MODEL": "file"}  # by what a metavar begins with


def lines() -> list[str]:
    """The public interface as it is now."""
    return [*_package(), *_classes(), *_errors(), *_testing(), *_commands(_parser())]


def _package() -> Iterator[str]:
    for name in sorted(bridge.__all__):
        value = getattr(bridge, name)
        if inspect.isfunction(value):
            yield f"bridge.{name}{_signature(value)}"
        elif not inspect.isclass(value):
            yield f"bridge.{name}: {type(value).__name__}"
    yield f"bridge.native.plugin_library{_signature(native.plugin_library)}"


def _classes() -> Iterator[str]:
    """Public classes, and bridge's dataclasses in the types of their attributes."""
    pending = [bridge.CompiledModule, bridge.Config, bridge.OnnxFile, bridge.Report, bridge.Tuning]
    seen = set(pending)
    while pending:
        cls = pending.pop(0)
        yield f"{cls.__name__}{_signature(cls)}"
        for name, value in vars(cls).items():
            if name.startswith("_"):
                continue
            if inspect.isfunction(value):
                yield f"{cls.__name__}.{name}{_signature(value)}"
            elif isinstance(value, property):
                yield f"{cls.__name__}.{name}: {_annotation_text(inspect.signature(value.fget).return_annotation)}"
        new = [dataclass for dataclass in _attribute_dataclasses(cls) if dataclass not in seen]
        pending += new
        seen.update(new)


def _attribute_dataclasses(cls: type) -> Iterator[type]:
    """Dataclasses of bridge in the types of a class's attributes, except EngineFile: its format has its own tests."""
    hints = [typing.get_type_hints(value.fget) for value in vars(cls).values() if isinstance(value, property)]
    for hint in [each["return"] for each in hints] + list(typing.get_type_hints(cls).values()):
        for dataclass in _flat(hint):
            if dataclasses.is_dataclass(dataclass) and dataclass.__name__ != "EngineFile":
                yield dataclass


def _flat(hint: Any) -> Iterator[Any]:
    inner = typing.get_args(hint)
    yield from (leaf for each in inner for leaf in _flat(each)) if inner else iter([hint])


def _errors() -> Iterator[str]:
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            yield f"bridge.errors.{name}({', '.join(base.__name__ for base in value.__bases__)})"


def _testing() -> Iterator[str]:
    for name in bridge.testing.__all__:
        value = getattr(bridge.testing, name)
        if isinstance(value, type) and issubclass(value, Exception):
            yield f"bridge.testing.{name}({', '.join(base.__name__ for base in value.__bases__)})"
        elif callable(value) and not typing.get_args(value):
            yield f"bridge.testing.{name}{_signature(value)}"


def _signature(value: Callable[..., Any]) -> str:
    """The signature without `Annotated`: an op's dtypes have their own tests."""
    signature = inspect.signature(value)
    hints = {} if inspect.isclass(value) else typing.get_type_hints(value)
    parameters = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]
    returns = hints.get("return", signature.return_annotation)
    return _annotation_text(signature.replace(parameters=parameters, return_annotation=returns))


def _annotation_text(value: Any) -> str:
    """A signature or an annotation, without modules and quotes, the same in every Python."""
    text = value.__name__ if inspect.isclass(value) and not typing.get_args(value) else str(value)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+([A-Za-z_]\w*)", r"\1", text).replace("'", "")
    return re.sub(r"Optional\[(\w+)\]", r"\1 | None", text).replace("NoneType", "None")


def _parser() -> argparse.ArgumentParser:
    """The parser of the `bridge` command, intercepted when it parses."""
    with mock.patch.object(argparse.ArgumentParser, "parse_args", autospec=True, side_effect=_Caught) as parse:
        try:
            cli.main(["ops"])
        except _Caught:
            return parse.call_args.args[0]
    raise AssertionError("the command line was not parsed")


class _Caught(BaseException):
    """Ends the command once its parser is known."""

    def __init__(self, *args: Any) -> None:
        super().__init__()


def _commands(parser: argparse.ArgumentParser, command: str = "bridge") -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from _commands(sub, f"{command} {name}")
        elif action.dest != "help":
            names = ", ".join(action.option_strings) or action.metavar or action.dest
            takes = "" if action.nargs == 0 else f" takes {action.nargs or 1}"
            choices = f" of {', '.join(map(str, action.choices))}" if action.choices else ""
            default = "" if action.default in (None, argparse.SUPPRESS) else f", default {action.default!r}"
            yield f"{command} {names}{takes}{choices}{default}"


def flags() -> str:
    """The arguments of every command, for `bridge completion`, which cannot import what adds them; JSON, one a line."""
    _, commands = command.parser(bridge.__version__)
    for name, (add, *_) in cli._COMMANDS.items():
        add(commands[name])
    rows = (row for name, each in commands.items() for row in _arguments(name, each))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _arguments(name: str, parser: argparse.ArgumentParser) -> Iterator[dict[str, Any]]:
    """A row for each argument; for each command within it a row, and those of its arguments."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice, inner in zip(action._choices_actions, action.choices.values(), strict=True):
                path = f"{name} {choice.dest}"
                yield {"command": path, "help": choice.help, "metavar": action.metavar}
                yield from _arguments(path, inner)
        elif action.dest not in _RECORDED_ELSEWHERE:
            kinds = [kind for word, kind in _FILES.items() if str(action.metavar).startswith(word)]
            yield {
                "command": name,
                "flags": action.option_strings,
                "dest": action.dest,
                "settings": _settings(action),
                "completes": kinds[0] if kinds else None,
            }


def _settings(action: argparse.Action) -> dict[str, Any]:
    """What add_argument takes."""
    if action.nargs == 0:
        return {"help": action.help, "action": "store_true"}
    choices = written() if action.metavar == "OP" else action.choices
    known = {"nargs": action.nargs, "metavar": action.metavar, "choices": choices and sorted(map(str, choices))}
    return {"help": action.help} | {name: value for name, value in known.items() if value is not None}


if __name__ == "__main__":
    RECORD.write_text("\n".join(lines()) + "\n")
    FLAGS.write_text(flags())
