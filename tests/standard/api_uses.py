"""Finds what Python sources use of TensorRT's Python module, by reading their syntax trees.

The module itself is known by its name, `trt`. From there types follow what the bindings declare: classes, what methods
return, enum members. Where no type is known, an attribute counts as TensorRT's if a class of TensorRT has one of that
name and Python's and torch's own classes have none.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from declarations import Declarations, Use
from package_sources import Functions, Sources

_MODULE = ("module", "")
# What expressions are, by the end of their text, in the files with this in their path.
_NAMED = (
    ("bridge/tensorrt/run/context.py", "_engine.native", "ICudaEngine"),
    ("bridge/tensorrt/run/context.py", "native", "IExecutionContext"),
    ("bridge/tensorrt/run/contexts.py", "self._engine", "ICudaEngine"),
    ("bridge/tensorrt/run/engine.py", "native", "ICudaEngine"),
    ("bridge/tensorrt/", "network", "INetworkDefinition"),
    ("bridge/tensorrt/", "ctx.net", "INetworkDefinition"),
    ("bridge/tensorrt/", "builder", "Builder"),
)


def uses_in(folder: Path, known: Iterable[Declarations]) -> list[Use]:
    """Every use in the sources below a folder. known: the names of these are TensorRT's."""
    reader = Sources(folder, list(known))
    return [use for path, tree in reader.trees.items() for use in _Module(reader, path, tree).uses()]


class _Module(ast.NodeVisitor):
    """The uses in one source."""

    def __init__(self, sources: Sources, path: Path, tree: ast.Module) -> None:
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
        return self._type_by_use(expression) or self._type_by_name(expression)

    def _type_by_name(self, expression: ast.expr) -> tuple[str, str] | None:
        text = ast.unparse(expression) if isinstance(expression, (ast.Name, ast.Attribute)) else ""
        found = (cls for path, end, cls in _NAMED if path in str(self._path) and text.endswith(end))
        cls = next(found, None)
        return cls and ("instance", cls)

    def _type_by_use(self, expression: ast.expr) -> tuple[str, str | None] | None:
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
