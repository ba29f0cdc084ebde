"""Pytrees in an engine file: the containers of a model's arguments and of its result.

torch's text form, `treespec_dumps`, imports modules and reads attributes that a file names. This form does not: a tree
is checked when it is read, and classes are looked up among those that this process has registered with torch.

In a file, a leaf is "*", and a container {"kind": …, "context": …, "children": […]}:

    kind                   context
    tuple, list            none
    dict, OrderedDict      the keys
    defaultdict            [the default factory or null, the keys]
    deque                  the maximum length or null
    namedtuple             the registered name of the class
    registered             [the registered name, the context of its flattening as JSON values]
"""

import dataclasses
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

from bridge.engine_file import checks
from bridge.errors import EngineError, EngineFileError, ExportError

LEAF = "*"

_DEEPEST = 64
_NO_NAME = pytree.NO_SERIALIZED_TYPE_NAME_FOUND  # torch's placeholder for classes without a name
_BUILTIN: dict[str, Any] = {
    "tuple": tuple,
    "list": list,
    "dict": dict,
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
    "deque": deque,
    "namedtuple": namedtuple,  # torch's pytrees have the function, not the class, as the type
}
_KINDS = {kind: name for name, kind in _BUILTIN.items()}
_FACTORIES: dict[str | None, Any] = {
    None: None,
    **{kind.__name__: kind for kind in (list, dict, set, tuple, int, float, str, bool, OrderedDict)},
}
_REMEDY = (
    "register it with torch.export.register_dataclass or with a serialized_type_name, or return tensors in tuples and"
    " dicts"
)


@dataclass(frozen=True)
class Tree:
    """A leaf, or a container of trees. context: as in the table above, with tuples for lists."""

    kind: str = LEAF
    context: Any = None
    children: tuple["Tree", ...] = ()

    @property
    def is_leaf(self) -> bool:
        """Whether the tree is a leaf."""
        return self.kind == LEAF

    @property
    def leaves(self) -> int:
        """The number of leaves."""
        return 1 if self.is_leaf else sum(child.leaves for child in self.children)

    def as_json(self) -> Any:
        """The tree as JSON values."""
        if self.is_leaf:
            return LEAF
        return {"kind": self.kind, "context": self.context, "children": [child.as_json() for child in self.children]}


def of_json(value: Any, what: str, depth: int = _DEEPEST) -> Tree:
    """The tree of JSON values from a file. EngineFileError: they are no valid tree."""
    if value == LEAF:
        return Tree()
    checks.of_type(value, dict, what)
    if depth == 0:
        raise EngineFileError(f"{what} is nested more than {_DEEPEST} deep")
    kind, context, children = (value.get(key) for key in ("kind", "context", "children"))
    if not isinstance(kind, str) or kind not in _CONTEXTS:
        checks.fail(f"the kind of {what}", kind, f"one of {', '.join(_CONTEXTS)}")
    checks.of_type(children, list, f"the children of {what}")
    context = _as_tuples(context, f"the context of {what}")
    _CONTEXTS[kind](context, len(children), f"the context of {what}")
    return Tree(kind, context, tuple(of_json(child, what, depth - 1) for child in children))


def of_spec(spec: pytree.TreeSpec, depth: int = _DEEPEST) -> Tree:
    """The tree of a treespec. ExportError: a container cannot be written to a file."""
    if spec.is_leaf():
        return Tree()
    if depth == 0:
        raise ExportError(f"what the model takes or returns is nested more than {_DEEPEST} deep; flatten it")
    kind = _KINDS.get(spec.type, "registered")
    children = tuple(of_spec(child, depth - 1) for child in spec.children())
    tree = Tree(kind, _context_of(kind, spec), children)
    try:
        tree = dataclasses.replace(tree, context=_as_tuples(tree.context, "its context"))
        _CONTEXTS[kind](tree.context, len(children), "its context")
    except EngineFileError as error:
        raise ExportError(
            f"the model takes or returns a {_type_name(spec)} that cannot be written to a file: {error}; return tensors"
            " in tuples, and in dicts whose keys are strings or numbers"
        ) from error
    return tree


def to_spec(tree: Tree) -> pytree.TreeSpec:
    """The treespec of a tree. EngineError: a class is not registered in this process, or differs."""
    if tree.is_leaf:
        return pytree.tree_structure(0)
    children = [to_spec(child) for child in tree.children]
    if tree.kind == "namedtuple":
        return pytree.TreeSpec(namedtuple, _namedtuple_class(tree), children)
    if tree.kind == "registered":
        name, context = tree.context
        return pytree.TreeSpec(_pytree_class(name), _as_lists(context), children)
    context = tree.context
    if tree.kind == "defaultdict":
        context = [_FACTORIES[context[0]], context[1]]
    return pytree.TreeSpec(_BUILTIN[tree.kind], _as_lists(context), children)


# Checks of each container's context against the number of its children.


def _nothing(context: Any, children: int, what: str) -> None:
    if context is not None:
        checks.fail(what, context, "null")


def _keys(context: Any, children: int, what: str) -> None:
    checks.sequence(checks.scalar)(context, what)
    if len(context) != children or len(set(context)) != children:
        checks.fail(what, context, f"{children} keys, one for each child")


def _factory_and_keys(context: Any, children: int, what: str) -> None:
    if not isinstance(context, (list, tuple)) or len(context) != 2:
        checks.fail(what, context, "a factory and keys")
    factory, keys = context
    if not (factory is None or isinstance(factory, str)) or factory not in _FACTORIES:
        checks.fail(f"the default factory of {what}", factory, ", ".join(map(str, _FACTORIES)))
    _keys(keys, children, what)


def _length(context: Any, children: int, what: str) -> None:
    checks.optional(checks.integer(children))(context, what)


def _class(context: Any, children: int, what: str) -> None:
    checks.name(context, what)


def _class_and_context(context: Any, children: int, what: str) -> None:
    if not isinstance(context, (list, tuple)) or len(context) != 2:
        checks.fail(what, context, "a class's name and its context")
    checks.name(context[0], what)


_CONTEXTS: dict[str, Callable[[Any, int, str], None]] = {
    "tuple": _nothing,
    "list": _nothing,
    "dict": _keys,
    "OrderedDict": _keys,
    "defaultdict": _factory_and_keys,
    "deque": _length,
    "namedtuple": _class,
    "registered": _class_and_context,
}


def _context_of(kind: str, spec: pytree.TreeSpec) -> Any:
    """The context for a file. ExportError: the class has no registered name, or decodes its context by own code."""
    if kind == "defaultdict":
        factory, keys = spec.context
        names = [name for name, known in _FACTORIES.items() if known is factory]
        return [names[0] if names else repr(factory), keys]
    if kind == "namedtuple":
        return _name_of(spec.context, named=True)
    if kind == "registered":
        return [_name_of(spec.type, named=False), spec.context]
    return spec.context


def _name_of(kind: type, named: bool) -> str:
    entry = pytree.SUPPORTED_SERIALIZED_TYPES.get(kind)
    problem = (
        f"the model takes or returns a class that cannot be written to a file: {kind.__module__}.{kind.__qualname__}"
    )
    name = "" if entry is None else entry.serialized_type_name
    if entry is None or pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name) is not kind or name == _NO_NAME:
        raise ExportError(f"{problem} has no registered name; {_REMEDY}")
    if not named and entry.from_dumpable_context is not None:
        raise ExportError(f"{problem} reads its context by code of its own, which no engine file may run; {_REMEDY}")
    return str(name)


# Classes are looked up among the registered ones; a name from a file is never imported.


def _class_by_name(name: str) -> Any:
    kind = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
    if kind is None or name == _NO_NAME:
        package = name.partition(".")[0]
        raise EngineError(
            f"the model takes or returns a class that is not known in this process: {name}; import the package that"
            f" defines it, {package}, before calling the model"
        )
    return kind


def _namedtuple_class(tree: Tree) -> Any:
    kind = _class_by_name(tree.context)
    fields = getattr(kind, "_fields", None)
    if not (isinstance(kind, type) and issubclass(kind, tuple) and isinstance(fields, tuple)):
        raise EngineError(f"the engine file has {tree.context} for a namedtuple, which it is not in this process")
    if len(fields) != len(tree.children):
        raise EngineError(
            f"{tree.context} has {len(fields)} fields in this process, {len(tree.children)} in the engine file"
        )
    return kind


def _pytree_class(name: str) -> Any:
    kind = _class_by_name(name)
    entry = pytree.SUPPORTED_SERIALIZED_TYPES[kind]
    if kind in _KINDS or kind not in pytree.SUPPORTED_NODES or entry.from_dumpable_context is not None:
        raise EngineError(f"the engine file has {name} for a registered class, which it is not in this process")
    return kind


# Tuples for JSON's lists: hashable and immutable.


def _as_tuples(value: Any, what: str) -> Any:
    checks.plain(value, what)
    return _convert_sequences(tuple, value)


def _as_lists(value: Any) -> Any:
    return _convert_sequences(list, value)


def _convert_sequences(kind: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _convert_sequences(kind, item) for key, item in value.items()}
    return kind(_convert_sequences(kind, item) for item in value) if isinstance(value, (list, tuple)) else value


def _type_name(spec: pytree.TreeSpec) -> str:
    return str(getattr(spec.type, "__name__", spec.type))
