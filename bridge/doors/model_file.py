"""Model files: Python files, and exported programs, that `bridge compile` takes a model from.

A Python file defines a function

    def bridge_model(argv: list[str]):
        return model, args, kwargs, dynamic_shapes

`argv` are the flags for the model: what follows `--` on the command line, after `--weights FILE` if that was given.
`model` is a torch.nn.Module in eval mode or an ExportedProgram; `args` and `kwargs` are example arguments and
`dynamic_shapes` is what torch.export takes. Trailing values may be left out, and `model` alone needs no tuple. The file
may import its neighbours; code under `if __name__ == "__main__":` does not run.

A file that ends in .pt2 is what torch.export.save wrote; its program has its own arguments, dtypes and dynamic shapes.
Both kinds are code: compile only files whose authors you would let run programs here.
"""

import importlib.util
import json
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bridge.base.text import did_you_mean, printable
from bridge.base.third_party_output import silence_capture
from bridge.core import libraries
from bridge.errors import BridgeError, UnknownNameError

FUNCTION = "bridge_model"
PROGRAM = ".pt2"  # how the name of an exported program ends
_DESCRIPTIONS = ("models/model.json", "serialized_exported_program.json")  # in such a file, of newer and older torch


class ModelFileError(BridgeError):
    """A model file does not run or load, or does not return what it should."""


@dataclass(frozen=True)
class Model:
    """What a model file returned: the arguments of bridge.compile."""

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None


def load(spec: str, argv: Sequence[str], weights: str | None = None) -> Model:
    """The model of "FILE.py" or "FILE.py:function", made for the flags `argv`; or of "FILE.pt2", which takes none.

    weights: a file, handed to the function as --weights FILE before the other flags.
    Raises:
        UnknownNameError: there is no such file, or flags are given to a program.
        ModelFileError: there is no such function, it fails, or it returns something else; or the program does not load.
    """
    path, name = _split(spec)
    argv = [*(["--weights", weights] if weights else []), *argv]
    if path.suffix == PROGRAM:
        return Model(_program(path, argv))
    module = _import(path)
    function = getattr(module, name, None)
    if not callable(function):
        raise ModelFileError(f"{path} defines no function {name}(argv) that returns the model; see `bridge compile -h`")
    try:
        result = function(list(argv))
    except Exception as error:
        raise ModelFileError(f"{path}: {name}({argv}) failed: {_error_text(error, path)}") from error
    return _unpack(result, f"{path}: {name}(argv)")


def stem(spec: str) -> str:
    """The name of a model file, without folder and ending."""
    return _split(spec)[0].stem


def _split(spec: str) -> tuple[Path, str]:
    """File and function; the file must be there."""
    path, colon, name = spec.rpartition(":")
    if not colon or Path(spec).is_file():
        path, name = spec, FUNCTION
    if not Path(path).is_file():
        files = (str(each) for ending in (".py", PROGRAM) for each in Path(path).parent.glob(f"*{ending}"))
        raise UnknownNameError(f"there is no model file {path}{did_you_mean(files, path)}")
    return Path(path), name


def _import(path: Path) -> ModuleType:
    name = f"bridge_model_file_{path.stem}"  # so that relu.py hides no module of that name
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ModelFileError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as for a script
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelFileError(f"{path} does not run: {_error_text(error, path)}") from error
    return module


def _program(path: Path, argv: Sequence[str]) -> torch.export.ExportedProgram:
    """What torch.export.save wrote."""
    if argv:
        raise UnknownNameError(f"{path} is an exported program, which takes no flags: {' '.join(argv)}")
    libraries.load_installed()  # whose ops it may hold
    try:
        with silence_capture():
            return torch.export.load(path)
    except Exception as error:  # of zip files, JSON, pickles and torch's schema
        saved, here = _saving_torch(path), str(torch.__version__)
        if saved is None:
            reason, remedy = "it is damaged, or no file that torch.export.save wrote", "export the model again"
        elif saved != here:
            reason, remedy = f"torch {saved} wrote it, and this is {here}", "export the model again with this torch"
        else:
            reason, remedy = "it is damaged, or has operators that nothing here defines", "install their package"
        text = printable(f"{type(error).__name__}: {error}")
        raise ModelFileError(f"{path} does not load: {reason}; {remedy}. torch says: {text}") from error


def _saving_torch(path: Path) -> str | None:
    """The version of torch that saved a program, as its file says; None where it says none."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith(_DESCRIPTIONS))
            return printable(str(json.loads(archive.read(name))["torch_version"]))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _unpack(result: Any, what: str) -> Model:
    parts = result if isinstance(result, tuple) else (result,)
    if not 1 <= len(parts) <= 4:
        raise ModelFileError(f"{what} returned {len(parts)} values; expected (model, args, kwargs, dynamic_shapes)")
    model = Model(*parts)
    for name, expected, value in (("args", tuple | list, model.args), ("kwargs", dict | None, model.kwargs)):
        if not isinstance(value, expected):
            raise ModelFileError(f"{what} returned {name} of type {type(value).__name__}; see `bridge compile -h`")
    return Model(model.model, tuple(model.args), dict(model.kwargs or {}), model.dynamic_shapes)


def _error_text(error: Exception, path: Path) -> str:
    """The error, with the innermost line of the model file in its traceback."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path.resolve()):
            line = frame.tb_lineno
        frame = frame.tb_next
    position = "" if line is None else f" (line {line})"
    return f"{type(error).__name__}: {error}{position}"
