"""The sources of a package as syntax trees, and what its functions are given by each other."""

import argparse
import ast
import pathlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from declarations import Declarations, Use

_OTHERS = (list, dict, str, set, int, torch.Tensor, torch.fx.Node, torch.fx.Graph, torch.fx.GraphModule)
_OTHERS += (torch.device, threading.Thread, pathlib.Path, argparse.ArgumentParser, argparse.Namespace)
_COMMON = {name for cls in _OTHERS for name in dir(cls)}
Functions: TypeAlias = tuple[ast.FunctionDef, ...]  # those around a node, the outermost first


class Sources:
    """All sources of a package, for what one function is given by another."""

    def __init__(self, folder: Path, known: list[Declarations]) -> None:
        self.known = known
        self.folder = folder
        texts = {path: path.read_text() for path in sorted(folder.rglob("*.py"))}
        self.trees = {path: ast.parse(text) for path, text in texts.items()}
        self.lines = {path: text.splitlines(keepends=True) for path, text in texts.items()}
        self._part_of: dict[ast.FunctionDef, str] = {}
        self.own: set[tuple[str, str]] = set()  # functions, by part and name
        self._calls = defaultdict(list)  # by part and name, with the functions around
        self._classes = defaultdict(list)  # by part
        for path, tree in self.trees.items():
            self._index(self.part(path), tree, ())
        self._own_names = {name for _, name in self.own}
        self._names = {name for each in known for owner in each.classes.values() for name in _names(owner)} - _COMMON
        self._class_names = {name for each in known for name in each.classes}

    def _index(self, part: str, node: ast.AST, functions: Functions) -> None:
        if isinstance(node, ast.FunctionDef):
            self.own.add((part, node.name))
            self._part_of[node] = part
            functions = (*functions, node)
        elif isinstance(node, ast.ClassDef):
            self._classes[part].append(node)
        elif isinstance(node, ast.Call):
            self._calls[part, last_name(node.func)].append((node, functions))
        for child in ast.iter_child_nodes(node):
            self._index(part, child, functions)

    def returned(self, owner: str | None, name: str) -> str | None:
        """The class that a member gives, if every version that has it says the same."""
        found = {
            each.returned(cls, name)
            for each in self.known
            for cls in ([owner] if owner in each.classes else each.owners(name) if owner is None else [])
        }
        return found.pop() if len(found) == 1 else None

    def part(self, path: Path) -> str:
        """The part of the package: names are its own."""
        return path.relative_to(self.folder).parts[0]

    def may_be_tensorrts(self, part: str, use: Use) -> bool:
        """Whether an attribute of an unknown object is one of TensorRT's, going by its name.

        A use that does not fit is TensorRT's if the name is of several words, and the package has no function of it.
        """
        return (
            use.name in self._names
            and (part, use.name) not in self.own
            and (
                any(each.problem(use) is None for each in self.known)
                or ("_" in use.name and use.name not in self._own_names)
            )
        )

    def is_member(self, owner: str, name: str) -> bool:
        """Whether an enum has a member of this name in any version."""
        return any(name in each.classes.get(owner, {}).get("values", ()) for each in self.known)

    def is_class(self, name: str) -> bool:
        return name in self._class_names

    def given_to(self, function: ast.FunctionDef, parameter: str) -> Iterator[tuple[ast.expr, Functions]]:
        """What the sources pass for a parameter of a function or method, found by its name."""
        names = [each.arg for each in function.args.args]
        yield from self._given(
            self._part_of[function], function.name, parameter, names.index(parameter) - (names[0] == "self")
        )

    def given_to_field(self, part: str, field: str) -> Iterator[tuple[ast.expr, Functions]]:
        """What the sources pass for a field of a dataclass, found by the field's name."""
        for node in self._classes[part]:
            fields = [each.target.id for each in node.body if isinstance(each, ast.AnnAssign)]
            if field in fields:
                yield from self._given(part, node.name, field, fields.index(field))

    def _given(self, part: str, name: str, parameter: str, place: int) -> Iterator[tuple[ast.expr, Functions]]:
        for call, functions in self._calls[part, name]:
            by_name = [each.value for each in call.keywords if each.arg == parameter]
            yield from ((each, functions) for each in by_name or call.args[place : place + 1])


def _names(declared: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("methods", "properties", "values", "classes", "constants"):
        yield from declared[kind]


def last_name(expression: ast.expr) -> str | None:
    return getattr(expression, "attr", getattr(expression, "id", None))
