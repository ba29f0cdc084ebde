"""Names that torch cannot put into the code that it generates: of parameters, and of keys of arguments.

torch.fx writes graphs as Python code, in which `d.class.weight` is a syntax error and a quote ends a string too early;
torch.export writes the conditions on arguments likewise, keys of dictionaries included.
"""

import contextlib
import dataclasses
import keyword
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from bridge.base.patches import replace
from bridge.graph.programs import copied

_BREAKS_A_STRING = re.compile(r"[\"'\\\n\r]")


def writable(program: ExportedProgram) -> ExportedProgram:
    """The program with names of parameters, buffers and constants that code can hold; the same one if it has such."""
    taken = {*program.state_dict, *program.constants}
    renamed: dict[str, str] = {}
    for name in sorted(taken):
        if not all(map(_is_writable, name.split("."))):
            renamed[name] = _other(name, taken | set(renamed.values()))
    if not renamed:
        return program
    module, signature = copied(program)
    signature.input_specs = _renamed(signature.input_specs, renamed)
    signature.output_specs = _renamed(signature.output_specs, renamed)
    tensors = {renamed.get(name, name): tensor for name, tensor in program.state_dict.items()}
    constants = {renamed.get(name, name): constant for name, constant in program.constants.items()}
    return program._update(module, signature, state_dict=tensors, constants=constants)


@contextlib.contextmanager
def without_conditions(program: ExportedProgram) -> Iterator[None]:
    """Within it torch writes no conditions on a program's arguments, if it could not; an engine checks its own inputs.

    For one thread at a time.
    """
    spec = program.call_spec.in_spec
    unlift = getattr(torch.export, "_unlift", None)
    name = "_convert_guards_code_to_fn"
    if spec is None or not hasattr(unlift, name) or not any(map(_BREAKS_A_STRING.search, _keys(spec))):
        yield
        return
    original = getattr(unlift, name)
    with contextlib.ExitStack() as stack:
        replace(stack, unlift, name, lambda conditions, paths: original([], paths))
        yield


def _is_writable(word: str) -> bool:
    """Whether a part of a dotted name can be an attribute in code, and is none that a graph's module has."""
    plain = word.isdigit() or (word.isidentifier() and not keyword.iskeyword(word))
    quoted = bool(word) and not _BREAKS_A_STRING.search(word)
    return (plain or (quoted and not word.isidentifier())) and not hasattr(GraphModule, word)


def _other(name: str, taken: set[str]) -> str:
    words = [word if _is_writable(word) else re.sub(r"\W", "_", word) + "_" for word in name.split(".")]
    found, count = ".".join(words), 1
    while found in taken:
        found, count = f"{'.'.join(words)}{count}", count + 1
    return found


def _renamed(specs: list[Any], names: dict[str, str]) -> list[Any]:
    return [dataclasses.replace(spec, target=names.get(spec.target, spec.target)) for spec in specs]


def _keys(spec: pytree.TreeSpec) -> Iterable[str]:
    context = spec.context if isinstance(spec.context, (list, tuple)) else [spec.context]
    yield from (key for key in context if isinstance(key, str))
    for child in spec.children():
        yield from _keys(child)
