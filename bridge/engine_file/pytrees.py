"""Pytrees as an engine file has them: which containers hold the leaves of a model's arguments and of its result.

torch's own text form, `treespec_dumps`, imports the modules and reads the attributes that it names. Nothing here does:
a tree is checked when it is read, and a class is looked up among those that this process has registered with torch.

In a file a leaf is "*", and a container {"kind": …, "context": …, "children": […]}:

    kind                   context
    tuple, list            none
    dict, OrderedDict      the keys
    defaultdict            [the default's factory or null, the keys]
    deque                  the greatest length or null
    namedtuple             the name that the class is registered under
    registered             [that name, what its flattening keeps, as JSON values]
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
_NO_NAME = pytree.NO_SERIALIZED_TYPE_NAME_FOUND  # what torch has for classes without one
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
    """A leaf, or a container of trees. context: as the table above has it, with tuples for lists."""

    kind: str = LEAF
    context: Any = None
    children: tuple["Tree", ...] = ()

    @property
    def is_leaf(self) -> bool:
        """Whether it is no container."""
        return self.kind == LEAF

    @property
    def leaves(self) -> int:
        """How many leaves it has."""
        return 1 if self.is_leaf else sum(child.leaves for child in self.children)

    def as_json(self) -> Any:
        """As a file has it."""
        if self.is_leaf:
            return LEAF
        return {"kind": self.kind, "context": self.context, "children": [child.as_json() for child in self.children]}


def of_json(value: Any, what: str, depth: int = _DEEPEST) -> Tree:
    """The tree that a file has. EngineFileError: it is none, or holds what no container has."""
    if value == LEAF:
        return Tree()
    checks.of_type(value, dict, what)
    if depth == 0:
        raise EngineFileError(f"{what} is nested more than {_DEEPEST} deep")
    kind, context, children = (value.get(key) for key in ("kind", "context", "children"))
    if not isinstance(kind, str) or kind not in _CONTEXTS:
        checks.fail(f"the kind of {what}", kind, f"one of {', '.join(_CONTEXTS)}")
    checks.of_type(children, list, f"the children of {what}")
    context = _frozen(context, f"the context of {what}")
    _CONTEXTS[kind](context, len(children), f"the context of {what}")
    return Tree(kind, context, tuple(of_json(child, what, depth - 1) for child in children))


def of_spec(spec: pytree.TreeSpec, depth: int = _DEEPEST) -> Tree:
    """The tree of a treespec. ExportError: it has a container that a file cannot have."""
    if spec.is_leaf():
        return Tree()
    if depth == 0:
        raise ExportError(f"what the model takes or returns is nested more than {_DEEPEST} deep; flatten it")
    kind = _KINDS.get(spec.type, "registered")
    children = tuple(of_spec(child, depth - 1) for child in spec.children())
    tree = Tree(kind, _context_of(kind, spec), children)
    try:
        tree = dataclasses.replace(tree, context=_frozen(tree.context, "its context"))
        _CONTEXTS[kind](tree.context, len(children), "its context")
    except EngineFileError as error:
        raise ExportError(
            f"the model takes or returns a {_spelt(spec)} that cannot be written to a file: {error}; return tensors in"
            " tuples, and in dicts whose keys are strings or numbers"
        ) from error
    return tree


def to_spec(tree: Tree) -> pytree.TreeSpec:
    """The treespec of a tree. EngineError: this process does not know one of its classes, or knows another one."""
    if tree.is_leaf:
        return pytree.tree_structure(0)
    children = [to_spec(child) for child in tree.children]
    if tree.kind == "namedtuple":
        return pytree.TreeSpec(namedtuple, _named_tuple(tree), children)
    if tree.kind == "registered":
        name, context = tree.context
        return pytree.TreeSpec(_registered(name), _thawed(context), children)
    context = tree.context
    if tree.kind == "defaultdict":
        context = [_FACTORIES[context[0]], context[1]]
    return pytree.TreeSpec(_BUILTIN[tree.kind], _thawed(context), children)


# Contexts: what each kind of container keeps, checked against the number of its children.


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
    """The context that a file has. ExportError: the class is not registered under a name, or reads it by itself."""
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
    found = (
        f"the model takes or returns a class that cannot be written to a file: {kind.__module__}.{kind.__qualname__}"
    )
    name = "" if entry is None else entry.serialized_type_name
    if entry is None or pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name) is not kind or name == _NO_NAME:
        raise ExportError(f"{found} has no registered name; {_REMEDY}")
    if not named and entry.from_dumpable_context is not None:
        raise ExportError(f"{found} reads its context by code of its own, which no engine file may run; {_REMEDY}")
    return str(name)


# Classes: those that the process has registered, never what the name of a file leads to.


def _find(name: str) -> Any:
    kind = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
    if kind is None or name == _NO_NAME:
        package = name.partition(".")[0]
        raise EngineError(
            f"the model takes or returns a class that is not known in this process: {name}; import the package that"
            f" defines it, {package}, before calling the model"
        )
    return kind


def _named_tuple(tree: Tree) -> Any:
    kind = _find(tree.context)
    fields = getattr(kind, "_fields", None)
    if not (isinstance(kind, type) and issubclass(kind, tuple) and isinstance(fields, tuple)):
        raise EngineError(f"the engine file has {tree.context} for a namedtuple, which it is not in this process")
    if len(fields) != len(tree.children):
        raise EngineError(
            f"{tree.context} has {len(fields)} fields in this process, {len(tree.children)} in the engine file"
        )
    return kind


def _registered(name: str) -> Any:
    kind = _find(name)
    entry = pytree.SUPPORTED_SERIALIZED_TYPES[kind]
    if kind in _KINDS or kind not in pytree.SUPPORTED_NODES or entry.from_dumpable_context is not None:
        raise EngineError(f"the engine file has {name} for a registered class, which it is not in this process")
    return kind


# JSON's lists as tuples, which have a hash and stay as they are.


def _frozen(value: Any, what: str) -> Any:
    checks.plain(value, what)
    return _with(tuple, value)


def _thawed(value: Any) -> Any:
    return _with(list, value)


def _with(kind: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with(kind, item) for key, item in value.items()}
    return kind(_with(kind, item) for item in value) if isinstance(value, (list, tuple)) else value


def _spelt(spec: pytree.TreeSpec) -> str:
    return str(getattr(spec.type, "__name__", spec.type))
