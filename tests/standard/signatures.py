"""Whether arguments fit a signature that bindings declare (see bindings_dump.py)."""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy

_PLAIN = {
    "bool": (bool, numpy.bool_),
    "int": numbers.Integral,
    "float": numbers.Real,
    "str": str,
    "list": list,
    "tuple": tuple,
    "ndarray": numpy.ndarray,
    "buffer": (bytes, bytearray, memoryview, numpy.ndarray),
    "bytes": bytes,
    "Iterable": Iterable,
    "object": object,
}
# What pybind11 makes an object of, where a class is declared.
_CONVERTED = {"Dims": "list[int]", "Permutation": "list[int]", "Weights": "ndarray"}
_CONVERTED |= {"PluginFieldCollection_": "PluginFieldCollection", "FallbackString": "str"}


class Signatures:
    """Compares arguments with signatures. classes: the declared classes, by name."""

    def __init__(self, classes: Mapping[str, type]) -> None:
        self._classes = classes

    def bind(self, overloads: Sequence[Mapping], args: tuple, kwargs: Mapping[str, Any]) -> tuple[tuple, dict]:
        """The arguments for the first overload that takes them, by position as far as possible.

        TypeError: none takes them.
        """
        for overload in overloads:
            names = [name for name, _, _ in overload["parameters"]]
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if len(args) <= len(names) and len(given) == len(args) + len(kwargs) and self._fits(overload, given):
                count = next((index for index, name in enumerate(names) if name not in given), len(names))
                rest = {name: value for name, value in given.items() if name not in names[:count]}
                return tuple(given[name] for name in names[:count]), rest
        raise TypeError(f"arguments {args} {dict(kwargs)} fit none of {[each['parameters'] for each in overloads]}")

    def _fits(self, overload: Mapping, given: Mapping[str, Any]) -> bool:
        declared = {name: (kind, optional) for name, kind, optional in overload["parameters"]}
        return given.keys() <= declared.keys() and all(
            self.accepts(kind, given[name]) if name in given else optional
            for name, (kind, optional) in declared.items()
        )

    def accepts(self, kind: str, value: Any) -> bool:
        """Whether a value can be given where a type is declared."""
        if kind in _PLAIN:
            return isinstance(value, _PLAIN[kind])
        if kind.startswith("list["):
            return _is_sequence(value) and all(self.accepts(kind[5:-1], each) for each in value)
        if value is None or isinstance(value, self._classes[kind]):
            return True
        return kind in _CONVERTED and self.accepts(_CONVERTED[kind], value)


def _is_sequence(value: Any) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, Mapping))
