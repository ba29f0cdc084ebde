"""What an instance is known by, wherever and whenever it was made: its content, with symbols named in their order."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sympy
import torch

from bridge.base import package
from bridge.base.files import sha256
from bridge.errors import LibraryError
from bridge.generate.native import triton_private
from bridge.generate.native.kernels import describe_constant
from bridge.generate.program import Configuration, Instance

_SDK = "sdk/include/bridge"
_PARTS = ("core", "hosts/tensorrt", "triton")
_DIGITS = 12
MOST_LETTERS = 60
"""Of an operator's and of a kernel's name in the name of a file."""


def digest(instance: Instance) -> str:
    """Twelve hexadecimal digits that stand for what an instance computes, and how; those of targets are not in it."""
    content = [described(canonical(instance)), sdk_digest()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def plugin_name(instance: Instance) -> str:
    """The name of an instance's plugin, such as "norm_1a2b3c4d5e6f"."""
    name = instance.operator.rpartition("::")[2].partition(".")[0]
    return f"{identifier(name)[:MOST_LETTERS]}_{digest(instance)}"


def namespace_of(instance: Instance) -> str:
    """The namespace of an instance's plugin."""
    return identifier(instance.operator.rpartition("::")[0].lower())


def identifier(text: str) -> str:
    """A text as a name in C++, unless it is a keyword."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() else name


def canonical(instance: Instance) -> Instance:
    """The instance with symbols n0, n1 and so on, in the order of its symbols."""
    renamed = {
        each.symbol: sympy.Symbol(f"n{index}", integer=True, nonnegative=True, positive=each.low > 0 or None)
        for index, each in enumerate(instance.symbols)
    }
    return _mapped(instance, lambda expression: expression.xreplace(renamed))


def _mapped(value: Any, change: Callable[[sympy.Basic], sympy.Basic]) -> Any:
    """A value of program.py with other expressions. Kernels' constants and options hold none."""
    if isinstance(value, sympy.Basic):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(each, change) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _mapped(each, change) for name, each in fields.items()})
    return value


def described(value: Any) -> Any:
    """A value of program.py as JSON. UnsupportedOpError: a kernel's constant is none that can be written down."""
    if isinstance(value, sympy.Basic):
        return sympy.srepr(value)
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [described(each) for each in value]
    if isinstance(value, Configuration):
        constants = {name: describe_constant(name, each) for name, each in sorted(value.constants.items())}
        options = {name: describe_constant(name, each) for name, each in sorted(value.options.items())}
        return ["Configuration", constants, options, described(value.grid)]
    if isinstance(value, Mapping):
        return {name: described(each) for name, each in sorted(value.items())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name not in _LEFT_OUT]
        return [type(value).__name__, *(described(getattr(value, name)) for name in names)]
    if triton_private.is_function(value):
        return triton_private.cache_key(value)
    return repr(value)


_LEFT_OUT = {"example"}  # shows in the configurations that are chosen for it


def sdk_folder() -> Path:
    """The folder of bridge's headers and of its hosts' sources. LibraryError: this installation has none."""
    places = [folder / _SDK for folder in package.folders()]
    found = next((place for place in places if (place / "triton" / "kernel.h").is_file()), None)
    if found is None:
        raise LibraryError(f"bridge's native sources are not in {', '.join(map(str, places))}: install bridge again")
    return found


@functools.cache
def sdk_digest() -> str:
    """Stands for the native sources that are part of a generated library, and for Triton's version."""
    folder = sdk_folder()
    files = sorted(file for part in _PARTS for file in (folder / part).rglob("*") if file.suffix in (".h", ".cpp"))
    content = [triton_private.version(), *(f"{file.relative_to(folder)} {sha256(file)}" for file in files)]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()


@functools.cache
def made_by() -> str:
    """Stands for all that a generated library is made with: as `sdk_digest`, and the code that writes op structs."""
    here = Path(__file__)
    files = [here.parents[1] / "build.py", *sorted(here.parent.glob("*.py"))]
    return hashlib.sha256("".join([sdk_digest(), *map(sha256, files)]).encode()).hexdigest()
