"""Finds what Python sources use of TensorRT's Python module, by reading their syntax trees.

The module itself is known by its name, `trt`. From there types follow what the bindings declare: classes, what methods
return, enum members. Where no type is known, an attribute counts as TensorRT's if a class of TensorRT has one of that
name and Python's and torch's own classes have none.
"""

import argparse
import ast
import pathlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from declarations import Declarations, Use

_OTHERS = (list, dict, str, set, int, torch.Tensor, torch.fx.Node, torch.fx.Graph, torch.fx.GraphModule)
_OTHERS += (torch.device, threading.Thread, pathlib.Path, argparse.ArgumentParser, argparse.Namespace)
_COMMON = {name for cls in _OTHERS for name in dir(cls)}
_MODULE = ("module", "")
Functions: TypeAlias = tuple[ast.FunctionDef, ...]  # those around a node, the outermost first


def uses_in(folder: Path, known: Iterable[Declarations]) -> list[Use]:
    """Every use in the sources below a folder. known: of all versions, for the names that are TensorRT's."""
    reader = _Sources(folder, list(known))
    return [use for path, tree in reader.trees.items() for use in _Module(reader, path, tree).uses()]


class _Sources:
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
            self._calls[part, _last(node.func)].append((node, functions))
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
        """Whether an attribute of an unknown object is one of TensorRT's, going by its name and its use."""
        return (
            use.name in self._names
            and (part, use.name) not in self.own
            and any(each.problem(use) is None for each in self.known)
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
    for kind in ("methods", "properties", "values", "classes"):
        yield from declared[kind]


def _last(expression: ast.expr) -> str | None:
    return getattr(expression, "attr", getattr(expression, "id", None))


class _Module(ast.NodeVisitor):
    """The uses in one source."""

    def __init__(self, sources: _Sources, path: Path, tree: ast.Module) -> None:
        self._sources = sources
        self._path = path
        self._part = sources.part(path)
        self._tree = tree
        self._functions: list[ast.FunctionDef] = []
        self._types: list[dict[str, tuple[str, str]]] = [{}]
        self._uses: list[Use] = []

    def uses(self) -> list[Use]:
        self.visit(self._tree)
        return self._uses

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._functions.append(node)
        self._types.append({})
        self.generic_visit(node)
        self._types.pop()
        self._functions.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind, name = self._type(base) or ("", "")
            if kind == "class":
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        self._add(method, name, method.name, arguments=(len(method.args.args) - 1, ()), overrides=True)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        found = self._type(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._types[-1].pop(target.id, None)
                if found:
                    self._types[-1][target.id] = found

    def visit_Attribute(self, node: ast.Attribute, arguments: tuple | None = None) -> None:
        base = self._type(node.value)
        if not node.attr.startswith("__"):
            self._add(node, base and base[1], node.attr, arguments, isinstance(node.ctx, ast.Store))
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            self._read_by_name(node)
        if isinstance(node.func, ast.Attribute):
            self.visit_Attribute(node.func, _passed(node))
        else:
            self.visit(node.func)
        for each in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(each)

    def _read_by_name(self, node: ast.Call) -> None:
        """getattr(trt.Enum, name), for every name that may be given."""
        base = self._type(node.args[0])
        if base is not None:
            names = set(self._strings(node.args[1], tuple(self._functions)))
            assert names, f"{self._place(node)}: cannot tell the names in {ast.unparse(node)}"
            for name in names:
                self._add(node, base[1], name)

    def _strings(self, expression: ast.expr, functions: Functions) -> Iterator[str]:
        """The strings that an expression may be. AssertionError: the sources do not show it."""
        if isinstance(expression, ast.Constant):
            yield expression.value
        elif isinstance(expression, ast.IfExp):
            yield from self._strings(expression.body, functions)
            yield from self._strings(expression.orelse, functions)
        elif isinstance(expression, ast.Attribute):
            yield from self._strings_of(self._sources.given_to_field(self._part, expression.attr))
        elif isinstance(expression, ast.Name):
            yield from self._strings_of(self._values_of(expression, functions))
        else:
            raise AssertionError(f"{self._place(expression)}: what can {ast.unparse(expression)} be?")

    def _strings_of(self, expressions: Iterable[tuple[ast.expr, Functions]]) -> Iterator[str]:
        for expression, functions in expressions:
            yield from self._strings(expression, functions)

    def _values_of(self, name: ast.Name, functions: Functions) -> Iterator[tuple[ast.expr, Functions]]:
        """What a variable or parameter is given."""
        for depth in reversed(range(len(functions))):
            function = functions[depth]
            if name.id in [each.arg for each in function.args.args]:
                return self._sources.given_to(function, name.id)
            assigned = [
                each.value for each in ast.walk(function) if isinstance(each, ast.Assign) and _sets(each, name.id)
            ]
            if assigned:
                return ((value, functions[: depth + 1]) for value in assigned)
        raise AssertionError(f"{self._place(name)}: what can {name.id} be?")

    def _type(self, expression: ast.expr) -> tuple[str, str | None] | None:
        """("module", ""), ("class", name) or ("instance", name)."""
        if isinstance(expression, ast.Name):
            local = next((types[expression.id] for types in reversed(self._types) if expression.id in types), None)
            return local or (_MODULE if expression.id == "trt" else None)
        if isinstance(expression, ast.Call):
            return self._type_of_call(expression)
        if not isinstance(expression, ast.Attribute):
            return None
        base = self._type(expression.value)
        if base is None:
            return _MODULE if expression.attr == "trt" else None
        label = ".".join(filter(None, (base[1], expression.attr)))
        if base[0] != "instance" and self._sources.is_class(label):
            return "class", label
        if base[0] == "class":
            return ("instance", base[1]) if self._sources.is_member(base[1], expression.attr) else None
        return self._instance(base[1], expression.attr)

    def _type_of_call(self, call: ast.Call) -> tuple[str, str | None] | None:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "trt":
            return _MODULE
        called = self._type(call.func)
        if called and called[0] == "class":
            return "instance", called[1]
        if not isinstance(call.func, ast.Attribute):
            return None
        base = self._type(call.func.value)
        if base is None and not self._sources.may_be_tensorrts(
            self._part, Use(None, call.func.attr, "", arguments=_passed(call))
        ):
            return None
        return self._instance(base[1] if base else None, call.func.attr)

    def _instance(self, owner: str | None, name: str) -> tuple[str, str] | None:
        found = self._sources.returned(owner, name)
        return ("instance", found) if found and self._sources.is_class(found) else None

    def _add(self, node, owner, name, arguments=None, stored=False, overrides=False) -> None:
        lines, around = self._sources.lines[self._path], self._functions[-1:]
        function = "".join(lines[around[0].lineno - 1 : around[0].end_lineno]) if around else ""
        use = Use(owner, name, self._place(node), function, arguments, stored, overrides)
        if owner is not None or self._sources.may_be_tensorrts(self._part, use):
            self._uses.append(use)

    def _place(self, node: ast.AST) -> str:
        return f"{self._path.relative_to(self._sources.folder.parent)}:{node.lineno}"


def _sets(assignment: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in assignment.targets)


def _passed(call: ast.Call) -> tuple[int, tuple[str, ...]] | None:
    """How many arguments are positional, and the names of the others; None if some are unpacked."""
    if any(isinstance(each, ast.Starred) for each in call.args) or any(each.arg is None for each in call.keywords):
        return None
    return len(call.args), tuple(each.arg for each in call.keywords)
