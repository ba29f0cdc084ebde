"""Python code as text for the key of an engine: a function with all that it refers to, the same in every process.

Code of Python, torch, NumPy, TensorRT, torch_tensorrt or bridge is given by its name: their versions are in the key.
Any other code is given by its content: bytecode, constants, defaults, closures and globals.
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

VERSIONED_PACKAGES = {
    *sys.stdlib_module_names,
    *("torch", "numpy", "bridge", "torch_tensorrt", "tensorrt", "tensorrt_rtx"),
    *("tensorrt_bindings", "tensorrt_libs", "tensorrt_rtx_bindings", "tensorrt_rtx_libs"),
} - {"__main__"}
# What may be part of a cycle, or be mutated through one of several references. Identity of other objects is irrelevant.
_BY_IDENTITY = (types.FunctionType, types.ModuleType, type, list, dict)
_MOST_OBJECTS = 20_000  # objects that one converter may refer to


class NoKeyError(TypeError):
    """Something that an engine depends on has no text that would be the same in another process."""


def is_versioned(value: Any) -> bool:
    """Whether a function, class or module belongs to a package whose version is in the key."""
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and name.partition(".")[0] in VERSIONED_PACKAGES


class CodeText:
    """The text of values; an object that they refer to several times is written out once."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps their ids from being reused

    def of(self, value: Any) -> str:
        """The text of a value. NoKeyError: it refers to something whose text would differ in another process."""
        if value is None or isinstance(value, (bool, int, str, bytes, complex, type(...), range)):
            return f"{type(value).__name__}:{value!r}"
        if isinstance(value, float):
            return f"float:{value.hex()}"
        if isinstance(value, _TOLD_BY_NAME):
            return f"{type(value).__name__}:{value}"
        if isinstance(value, _BY_IDENTITY) or not isinstance(value, _COMPARED_BY_VALUE):
            place = self._places.setdefault(id(value), len(self._kept))
            if place < len(self._kept):
                return f"again:{place}"
            self._kept.append(value)
        if len(self._kept) > _MOST_OBJECTS:
            raise NoKeyError(f"more than {_MOST_OBJECTS} objects are referred to")
        return self._object_text(value)

    def _object_text(self, value: Any) -> str:
        for kinds, text_of in _TEXTS:
            if isinstance(value, kinds):
                return text_of(self, value)
        if is_versioned(value) and hasattr(value, "__qualname__"):
            return _name(value)
        if hasattr(type(value), "__members__"):  # an enumeration of TensorRT's
            return f"{_name(type(value))}.{value.name}"
        state = getattr(value, "__dict__", None)
        # An object of a C class may hold state that Python cannot see; one with an __init__ in Python does not.
        made_here = isinstance(type(value).__init__, types.FunctionType) or not is_versioned(type(value))
        if state is None or not made_here:
            raise NoKeyError(f"{value!r} of type {type(value).__name__} has no stable spelling")
        return f"object<{self.of(type(value))} {self.of(state)}>"

    def all(self, values: Sequence[Any]) -> str:
        """The text of several values, in order."""
        return ", ".join(map(self.of, values))


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _function_text(texts: CodeText, function: types.FunctionType) -> str:
    cells = [cell.cell_contents if _is_filled(cell) else None for cell in function.__closure__ or ()]
    if is_versioned(function):  # perhaps a decorator around a function that is not
        held = [cell for cell in cells if callable(cell) and not is_versioned(cell)]
        return f"{_name(function)}<{texts.all(held)}>"
    names = set(_names_used(function.__code__))
    used = {name: function.__globals__[name] for name in sorted(names & function.__globals__.keys())}
    referred = {name: _part_of_module(value, names) for name, value in used.items()}
    parts = (function.__code__, function.__defaults__, function.__kwdefaults__, cells, referred)
    return f"function<{function.__qualname__} {texts.all(parts)}>"


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _names_used(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_used(constant)


def _part_of_module(value: Any, names: set[str], depth: int = 8) -> Any:
    """Of a module without a version in the key, the members that such code may use; else the value itself."""
    if not isinstance(value, types.ModuleType) or is_versioned(value) or not depth:
        return value
    taken = sorted(names & vars(value).keys())
    return {name: _part_of_module(vars(value)[name], names - {name}, depth - 1) for name in taken}


def _code_text(texts: CodeText, code: types.CodeType) -> str:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return f"code<{code.co_code.hex()} {texts.all((counts, names, code.co_consts))}>"


def _method_text(texts: CodeText, method: types.MethodType) -> str:
    return f"method<{texts.all((method.__func__, method.__self__))}>"


def _partial_text(texts: CodeText, partial: functools.partial[Any]) -> str:
    return f"partial<{texts.all((partial.func, partial.args, partial.keywords))}>"


def _class_text(texts: CodeText, cls: type) -> str:
    if is_versioned(cls):
        return _name(cls)
    members = {name: value for name, value in vars(cls).items() if name not in _IN_EVERY_CLASS}
    return f"class<{cls.__qualname__} {texts.all((cls.__bases__, members))}>"


def _module_text(texts: CodeText, module: types.ModuleType) -> str:
    if is_versioned(module):
        return module.__name__
    file = getattr(module, "__file__", None)
    if file is None:
        raise NoKeyError(f"the module {module.__name__} has no file")
    return f"module<{module.__name__} {hashlib.sha256(Path(file).read_bytes()).hexdigest()}>"


def _tensor_text(texts: CodeText, tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided or isinstance(tensor, torch._subclasses.FakeTensor):
        raise NoKeyError(f"a tensor of {tensor.layout} without values")
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"tensor<{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}>"


def _array_text(texts: CodeText, array: numpy.ndarray[Any, Any]) -> str:
    if array.dtype.hasobject:
        raise NoKeyError(f"an array of {array.dtype}")
    return f"array<{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}>"


def _mapping_text(texts: CodeText, mapping: Mapping[Any, Any]) -> str:
    items = ", ".join(f"{texts.of(key)}: {texts.of(value)}" for key, value in mapping.items())
    return f"{type(mapping).__name__}{{{items}}}"


def _set_text(texts: CodeText, items: Any) -> str:
    return f"set<{', '.join(sorted(map(CodeText().of, items)))}>"


def _enum_text(texts: CodeText, member: enum.Enum) -> str:
    return f"{_name(type(member))}.{member.name}"


def _wrapper_text(texts: CodeText, wrapper: Any) -> str:
    inner = (wrapper.fget, wrapper.fset) if isinstance(wrapper, property) else (wrapper.__func__,)
    return f"{type(wrapper).__name__}<{texts.all(inner)}>"


_IN_EVERY_CLASS = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__")
# Told apart by str().
_TOLD_BY_NAME = (
    *(torch.dtype, torch.layout, torch.memory_format, torch.device),
    *(torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator),
    *(numpy.dtype, re.Pattern, PurePath),
)
_COMPARED_BY_VALUE = (types.CodeType, enum.Enum, torch.Tensor, numpy.ndarray, numpy.generic, tuple, set, frozenset)
_TEXTS: tuple[tuple[Any, Any], ...] = (
    (types.FunctionType, _function_text),
    (types.CodeType, _code_text),
    (types.MethodType, _method_text),
    (functools.partial, _partial_text),
    (enum.Enum, _enum_text),
    (type, _class_text),
    (types.ModuleType, _module_text),
    (torch.Tensor, _tensor_text),
    (numpy.ndarray, _array_text),
    (numpy.generic, lambda texts, number: f"{number.dtype}:{number!r}"),
    (Mapping, _mapping_text),
    (tuple, lambda texts, items: f"({texts.all(items)})"),
    (list, lambda texts, items: f"[{texts.all(items)}]"),
    ((set, frozenset), _set_text),
    ((property, staticmethod, classmethod), _wrapper_text),
    (logging.Logger, lambda texts, logger: f"logger<{logger.name}>"),
)
