"""Renames parameters and constants whose names would break the Python code that torch generates.

torch.fx writes graphs as code, where `d.class.weight` is a syntax error and a quote ends a string early.
"""

import dataclasses
import keyword
import re
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule

from bridge.graph.programs import copied

_BREAKS_A_STRING = re.compile(r"[\"'\\\n\r]")


def with_valid_names(program: ExportedProgram) -> ExportedProgram:
    """The program with valid names of parameters, buffers and constants; unchanged if all are valid."""
    taken = {*program.state_dict, *program.constants}
    renamed: dict[str, str] = {}
    for name in sorted(taken):
        if not all(map(_is_valid_word, name.split("."))):
            renamed[name] = _valid_name(name, taken | set(renamed.values()))
    if not renamed:
        return program
    module, signature = copied(program)
    signature.input_specs = _renamed(signature.input_specs, renamed)
    signature.output_specs = _renamed(signature.output_specs, renamed)
    tensors = {renamed.get(name, name): tensor for name, tensor in program.state_dict.items()}
    constants = {renamed.get(name, name): constant for name, constant in program.constants.items()}
    return program._update(module, signature, state_dict=tensors, constants=constants)


def _is_valid_word(word: str) -> bool:
    """Whether a part of a dotted name can be an attribute in code, and is no attribute of GraphModule."""
    plain = word.isdigit() or (word.isidentifier() and not keyword.iskeyword(word))
    quoted = bool(word) and not _BREAKS_A_STRING.search(word)
    return (plain or (quoted and not word.isidentifier())) and not hasattr(GraphModule, word)


def _valid_name(name: str, taken: set[str]) -> str:
    words = [word if _is_valid_word(word) else re.sub(r"\W", "_", word) + "_" for word in name.split(".")]
    candidate, count = ".".join(words), 1
    while candidate in taken:
        candidate, count = f"{'.'.join(words)}{count}", count + 1
    return candidate


def _renamed(specs: list[Any], names: dict[str, str]) -> list[Any]:
    return [dataclasses.replace(spec, target=names.get(spec.target, spec.target)) for spec in specs]
