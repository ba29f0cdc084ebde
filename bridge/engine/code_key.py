"""Python code as text: a function with all that it refers to, the same in every process, for the key of an engine.

What belongs to Python, torch, NumPy, TensorRT, torch_tensorrt or bridge is its name, for their versions are in the key
already. Anything else is spelt by what it does: bytecode, constants, defaults, closures and globals.
"""

import enum
import functools
import hashlib
import logging
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy
import torch

KNOWN = {
    *sys.stdlib_module_names,
    *("torch", "numpy", "bridge", "torch_tensorrt", "tensorrt", "tensorrt_rtx"),
    *("tensorrt_bindings", "tensorrt_libs", "tensorrt_rtx_bindings", "tensorrt_rtx_libs"),
} - {"__main__"}
# What may be referred to in a circle, or changed by one for another; the identity of other objects says nothing.
_ONCE = (types.FunctionType, types.ModuleType, type, list, dict)
_MOST = 20_000  # objects that one converter may refer to


class NoKeyError(TypeError):
    """Something that an engine depends on has no spelling that another process would give it too."""


def is_known(value: Any) -> bool:
    """Whether a function, class or module belongs to a package whose version the key has."""
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and name.partition(".")[0] in KNOWN


class Speller:
    """Spells values, and each object that they refer to once."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the identity of one that was spelt

    def spell(self, value: Any) -> str:
        """A value as text. NoKeyError: it refers to something that has none which another process would give it."""
        if value is None or isinstance(value, (bool, int, str, bytes, complex, type(...), range)):
            return f"{type(value).__name__}:{value!r}"
        if isinstance(value, float):
            return f"float:{value.hex()}"
        if isinstance(value, _NAMED):
            return f"{type(value).__name__}:{value}"
        if isinstance(value, _ONCE) or not isinstance(value, _KINDS_OF_VALUES):
            place = self._places.setdefault(id(value), len(self._kept))
            if place < len(self._kept):
                return f"again:{place}"
            self._kept.append(value)
        if len(self._kept) > _MOST:
            raise NoKeyError(f"more than {_MOST} objects are referred to")
        return self._spell_object(value)

    def _spell_object(self, value: Any) -> str:
        for kinds, spell in _KINDS:
            if isinstance(value, kinds):
                return spell(self, value)
        if is_known(value) and hasattr(value, "__qualname__"):
            return _name(value)
        if hasattr(type(value), "__members__"):  # an enumeration of TensorRT's
            return f"{_name(type(value))}.{value.name}"
        state = getattr(value, "__dict__", None)
        # What C code made may hold more than Python sees; what an __init__ in Python made does not.
        made_here = isinstance(type(value).__init__, types.FunctionType) or not is_known(type(value))
        if state is None or not made_here:
            raise NoKeyError(f"{value!r} of type {type(value).__name__} has no stable spelling")
        return f"object<{self.spell(type(value))} {self.spell(state)}>"

    def all(self, values: Sequence[Any]) -> str:
        """Several, in their order."""
        return ", ".join(map(self.spell, values))


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _spell_function(speller: Speller, function: types.FunctionType) -> str:
    cells = [cell.cell_contents if _is_filled(cell) else None for cell in function.__closure__ or ()]
    if is_known(function):  # a decorator's, it may be, around what is not
        held = [cell for cell in cells if callable(cell) and not is_known(cell)]
        return f"{_name(function)}<{speller.all(held)}>"
    names = set(_names(function.__code__))
    used = {name: function.__globals__[name] for name in sorted(names & function.__globals__.keys())}
    found = {name: _part_of_module(value, names) for name, value in used.items()}
    parts = (function.__code__, function.__defaults__, function.__kwdefaults__, cells, found)
    return f"function<{function.__qualname__} {speller.all(parts)}>"


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _part_of_module(value: Any, names: set[str], depth: int = 8) -> Any:
    """Of a module that is not known what code of these names may take from it; any other value as it is."""
    if not isinstance(value, types.ModuleType) or is_known(value) or not depth:
        return value
    taken = sorted(names & vars(value).keys())
    return {name: _part_of_module(vars(value)[name], names - {name}, depth - 1) for name in taken}


def _spell_code(speller: Speller, code: types.CodeType) -> str:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return f"code<{code.co_code.hex()} {speller.all((counts, names, code.co_consts))}>"


def _spell_method(speller: Speller, method: types.MethodType) -> str:
    return f"method<{speller.all((method.__func__, method.__self__))}>"


def _spell_partial(speller: Speller, partial: functools.partial[Any]) -> str:
    return f"partial<{speller.all((partial.func, partial.args, partial.keywords))}>"


def _spell_class(speller: Speller, found: type) -> str:
    if is_known(found):
        return _name(found)
    members = {name: value for name, value in vars(found).items() if name not in _OF_EVERY_CLASS}
    return f"class<{found.__qualname__} {speller.all((found.__bases__, members))}>"


def _spell_module(speller: Speller, module: types.ModuleType) -> str:
    if is_known(module):
        return module.__name__
    file = getattr(module, "__file__", None)
    if file is None:
        raise NoKeyError(f"the module {module.__name__} has no file")
    return f"module<{module.__name__} {hashlib.sha256(Path(file).read_bytes()).hexdigest()}>"


def _spell_tensor(speller: Speller, tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided or isinstance(tensor, torch._subclasses.FakeTensor):
        raise NoKeyError(f"a tensor of {tensor.layout} without values")
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"tensor<{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}>"


def _spell_array(speller: Speller, array: numpy.ndarray[Any, Any]) -> str:
    if array.dtype.hasobject:
        raise NoKeyError(f"an array of {array.dtype}")
    return f"array<{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}>"


def _spell_mapping(speller: Speller, mapping: Mapping[Any, Any]) -> str:
    items = ", ".join(f"{speller.spell(key)}: {speller.spell(value)}" for key, value in mapping.items())
    return f"{type(mapping).__name__}{{{items}}}"


def _spell_set(speller: Speller, found: Any) -> str:
    return f"set<{', '.join(sorted(map(Speller().spell, found)))}>"


def _spell_enum(speller: Speller, member: enum.Enum) -> str:
    return f"{_name(type(member))}.{member.name}"


def _spell_wrapper(speller: Speller, wrapper: Any) -> str:
    inner = (wrapper.fget, wrapper.fset) if isinstance(wrapper, property) else (wrapper.__func__,)
    return f"{type(wrapper).__name__}<{speller.all(inner)}>"


_OF_EVERY_CLASS = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__")
# What is told apart by its text.
_NAMED = (
    *(torch.dtype, torch.layout, torch.memory_format, torch.device),
    *(torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator),
    *(numpy.dtype, re.Pattern, PurePath),
)
_KINDS_OF_VALUES = (types.CodeType, enum.Enum, torch.Tensor, numpy.ndarray, numpy.generic, tuple, set, frozenset)
_KINDS: tuple[tuple[Any, Any], ...] = (
    (types.FunctionType, _spell_function),
    (types.CodeType, _spell_code),
    (types.MethodType, _spell_method),
    (functools.partial, _spell_partial),
    (enum.Enum, _spell_enum),
    (type, _spell_class),
    (types.ModuleType, _spell_module),
    (torch.Tensor, _spell_tensor),
    (numpy.ndarray, _spell_array),
    (numpy.generic, lambda speller, number: f"{number.dtype}:{number!r}"),
    (Mapping, _spell_mapping),
    (tuple, lambda speller, items: f"({speller.all(items)})"),
    (list, lambda speller, items: f"[{speller.all(items)}]"),
    ((set, frozenset), _spell_set),
    ((property, staticmethod, classmethod), _spell_wrapper),
    (logging.Logger, lambda speller, logger: f"logger<{logger.name}>"),
)
