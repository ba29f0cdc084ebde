"""What parameters of an op may be that are no tensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from bridge.errors import OpInputError

Pair: TypeAlias = int | tuple[int, int]
"""One number for both spatial axes, or (height, width)."""

ATTRIBUTE_TYPES: dict[Any, str] = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    Pair: "int[2]",
    Sequence[int]: "int[]",
    Sequence[float]: "float[]",
}
"""Python annotation → type in the schema. A parameter of any other type is a definition error."""


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}


@dataclass(frozen=True)
class Attribute:
    """A parameter that is no tensor: its name, its type in the schema and its default (None: it has none)."""

    name: str
    type: str
    default: Any

    @property
    def unlimited(self) -> bool:
        """Whether the default is infinity, which a schema spells ``float? name=None``."""
        return self.type == "float" and isinstance(self.default, float) and math.isinf(self.default)

    def fits_default(self) -> bool:
        """Whether the default is of the type; torch would make an int of 1.5."""
        if self.default is None:
            return True
        kind = self.type.partition("[")[0]
        several = self.type.endswith("[]") or (kind != self.type and not isinstance(self.default, int))
        values = self.default if several else (self.default,)
        return isinstance(values, (tuple, list)) and all(type(value) in _PYTHON_TYPES[kind] for value in values)

    def fits(self, value: Any) -> bool:
        """Whether a value may be of the type, as far as torch does not see to it with an error of its own words."""
        return isinstance(value, str) == (self.type == "str") and not isinstance(value, torch.Tensor)

    def spell(self) -> str:
        """The parameter as a schema spells it."""
        if self.unlimited:
            return f"float? {self.name}=None"
        if self.default is None:
            return f"{self.type} {self.name}"
        default = f'"{self.default}"' if self.type == "str" else self.default
        default = list(default) if isinstance(default, tuple) else default
        return f"{self.type} {self.name}={default}"

    def value(self, given: Any) -> Any:
        """The plain Python value that ``given`` (an argument of a call or of a graph node) stands for."""
        if self.type == "int[2]":
            pair = (given, given) if isinstance(given, int) else tuple(given)
            if len(pair) not in (1, 2):
                raise OpInputError(f"{self.name} has {len(pair)} values, expected one or two: {given}")
            return pair * 2 if len(pair) == 1 else pair
        if self.unlimited and given is None:
            return self.default
        return list(given) if self.type.endswith("[]") else given
