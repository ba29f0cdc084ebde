"""The signature of an op: names, tensors, attributes and outputs; and the arguments of a call, sorted and checked."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from bridge.core.attributes import ATTRIBUTE_TYPES, Attribute
from bridge.core.tensors import DTypes, check_tensors, dtypes_of
from bridge.errors import OpDefinitionError, OpInputError

NAMESPACE = "bridge"
NAMESPACE_PATTERN = "[a-z_][a-z0-9_]*"


def namespace_of(name: str) -> str:
    """The namespace of the op with that key in OPS."""
    return name.rpartition("::")[0] or NAMESPACE


_COUNTED = "counted"
Counted: TypeAlias = Annotated[Tensor, _COUNTED]
"""A result whose first extent depends on values, see `unknown_extent`; csrc/core/op.h says `counted`."""


def require(condition: bool, message: str) -> None:
    """Raises OpInputError with ``message`` unless ``condition`` holds; for checks in references."""
    if not condition:
        raise OpInputError(message)


class Signature:
    """What an op is called, and what it takes and gives.

    name: the key in OPS. qualified_name: with its namespace, as torch.library takes it. local_name: without.
    tensors: the names of its tensor parameters, of which `optional` may be None; dtypes: what each of them takes.
    attributes: its other parameters. counted: the places of the outputs whose first extent depends on values.
    """

    def __init__(self, qualified_name: str) -> None:
        self.qualified_name = qualified_name
        self.namespace, _, self.local_name = qualified_name.partition("::")
        self.name = self.local_name if self.namespace == NAMESPACE else qualified_name
        self.tensors: list[str] = []
        self.optional: set[str] = set()
        self.attributes: list[Attribute] = []
        self.dtypes: list[DTypes] = []
        self.num_outputs = 0
        self.counted: tuple[int, ...] = ()

    def _read(self, function: Callable[..., Any]) -> None:
        """Takes the signature of a Python function."""
        hints = get_type_hints(function)
        marked = get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            self._add(parameter, hints.get(parameter.name))
        self.dtypes = [dtypes_of(marked[name]) for name in self.tensors]
        self.num_outputs = self._count_outputs(hints.get("return"))
        self.counted = self._counted_outputs(marked.get("return"))

    def _add(self, parameter: inspect.Parameter, hint: Any) -> None:
        where = f"op {self.name}, parameter {parameter.name}"
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise OpDefinitionError(f"{where}: must be an ordinary parameter, not {parameter.kind.description}")
        optional = get_origin(hint) in (Union, UnionType) and set(get_args(hint)) == {Tensor, NoneType}
        if hint is Tensor or optional:
            if self.attributes:
                raise OpDefinitionError(f"{where}: tensors come before attributes")
            self.tensors.append(parameter.name)
            self.optional |= {parameter.name} if optional else set()
        elif hint in ATTRIBUTE_TYPES:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            attribute = Attribute(parameter.name, ATTRIBUTE_TYPES[hint], default)
            if not attribute.fits_default():
                raise OpDefinitionError(f"{where}: its default is {default!r}, expected {attribute.type}")
            self.attributes.append(attribute)
        else:
            known = "Tensor, Tensor | None, int, float, bool, str, Pair, Sequence[int] or Sequence[float]"
            raise OpDefinitionError(f"{where}: annotated {hint!r}, expected {known}")

    def _count_outputs(self, hint: Any) -> int:
        if hint is Tensor:
            return 1
        if get_origin(hint) is tuple and all(item is Tensor for item in get_args(hint)):
            return len(get_args(hint))
        raise OpDefinitionError(
            f"op {self.name} returns {hint!r}, expected Tensor or tuple[Tensor, ...] of fixed length"
        )

    def _counted_outputs(self, hint: Any) -> tuple[int, ...]:
        """The places of the outputs that are `Counted`."""
        results = get_args(hint) if get_origin(hint) is tuple else [hint]
        return tuple(i for i, result in enumerate(results) if _COUNTED in getattr(result, "__metadata__", ()))

    def schema_text(self) -> str:
        """The schema as text, without the namespace; csrc/core/schema.cpp spells the plugin's in the same way."""
        tensors = [f"Tensor? {name}=None" if name in self.optional else f"Tensor {name}" for name in self.tensors]
        arguments = ", ".join(tensors + [attribute.signature_text() for attribute in self.attributes])
        results = ", ".join(["Tensor"] * self.num_outputs)
        return f"{self.local_name}({arguments}) -> {results if self.num_outputs == 1 else f'({results})'}"

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Sorts the arguments of a call, or of a graph node.

        Returns:
            One entry for each tensor parameter in order (None where an optional one is absent), and the value of every
            attribute by name, defaults filled in.
        Raises:
            OpInputError: an argument is missing, unknown or given twice.
        """
        names = [*self.tensors, *(attribute.name for attribute in self.attributes)]
        given = dict(zip(names, args, strict=False))
        unknown = [name for name in kwargs if name not in names or name in given]
        require(
            len(args) <= len(names) and not unknown,
            f"{self.name}: arguments unknown or given twice: {unknown or args[len(names) :]}",
        )
        given.update(kwargs)
        missing = [name for name in self.tensors if given.get(name) is None and name not in self.optional]
        missing += [a.name for a in self.attributes if a.name not in given and a.default is None]
        require(not missing, f"{self.name}: missing arguments: {', '.join(missing)}")
        attributes = {a.name: a.value(given.get(a.name, a.default)) for a in self.attributes}
        return [given.get(name) for name in self.tensors], attributes

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, sorted as `bind` does, once they are of kinds that the op takes.

        Raises:
            OpInputError: as `bind` does; or a tensor, see `check_tensors`, or an attribute is of another kind.
        """
        tensors, attributes = self.bind(args, kwargs)
        check_tensors(self.name, self.tensors, self.dtypes, tensors)
        for attribute in self.attributes:
            value = attributes[attribute.name]
            require(attribute.fits(value), f"{self.name}: {attribute.name} is {value!r}, expected {attribute.type}")
        return tensors, attributes
