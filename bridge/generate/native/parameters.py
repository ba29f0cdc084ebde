"""The parameters of a generated op: tensors and attributes by the operator's schema, and how C++ spells them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bridge.errors import UnsupportedOpError
from bridge.generate.program import Instance, TensorType

DTYPES = {
    torch.float32: "kFloat32",
    torch.float16: "kFloat16",
    torch.bfloat16: "kBFloat16",
    torch.int32: "kInt32",
    torch.int64: "kInt64",
}
"""Of plugins' tensors, by the name in csrc/core/dtype.h."""
MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Tensor:
    """A tensor parameter. type: None where it is absent."""

    name: str
    optional: bool
    type: TensorType | None


@dataclass(frozen=True)
class Attribute:
    """A parameter that is no tensor: C++ of its type, its default, and the value that it must have."""

    name: str
    type: str
    default: str
    value: str


def tensors_of(instance: Instance) -> list[Tensor]:
    """The tensor parameters. UnsupportedOpError: a plugin cannot have such ones."""
    arguments = [each for each in _arguments(instance) if str(each.type) in _TENSORS]
    if len(arguments) != len(instance.inputs):
        raise ValueError(f"{len(instance.inputs)} inputs for {len(arguments)} tensors of {instance.schema}")
    if not arguments or instance.inputs[0] is None:
        raise UnsupportedOpError("it has no first tensor, which a TensorRT plugin needs")
    pairs = zip(arguments, instance.inputs, strict=True)
    tensors = [Tensor(each.name, str(each.type) != "Tensor", given) for each, given in pairs]
    for tensor in tensors:
        if tensor.type is not None:
            _check_type(tensor.name, tensor.type)
        elif not tensor.optional:
            raise ValueError(f"{tensor.name} is absent, and {instance.schema} needs it")
    for index, output in enumerate(instance.outputs):
        _check_type(f"output {index}", output)
    return tensors


def attributes_of(instance: Instance) -> list[Attribute]:
    """The other parameters. UnsupportedOpError: one is of a type that plugins' attributes cannot have."""
    arguments = _arguments(instance)
    kinds = [str(each.type) in _TENSORS for each in arguments]
    if kinds != sorted(kinds, reverse=True):
        raise UnsupportedOpError(f"tensors come before attributes, not as in {instance.schema}")
    others = [each for each, is_tensor in zip(arguments, kinds, strict=True) if not is_tensor]
    if unknown := instance.attributes.keys() ^ {each.name for each in others}:
        raise ValueError(f"{', '.join(sorted(unknown))}: not both in {instance.schema} and given")
    return [_attribute(instance, each) for each in others]


_TENSORS = ("Tensor", "Optional[Tensor]")


def _arguments(instance: Instance) -> Sequence[Any]:
    name, parenthesis, rest = instance.schema.partition("(")
    return torch._C.parse_schema(f"{name.rpartition('::')[2]}{parenthesis}{rest}").arguments


def _check_type(what: str, tensor: TensorType) -> None:
    if tensor.dtype not in DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise UnsupportedOpError(f"{what} is {dtype}; tensors of plugins are {known}")
    if len(tensor.shape) > MOST_DIMENSIONS:
        raise UnsupportedOpError(
            f"{what} has {len(tensor.shape)} dimensions; tensors of plugins have at most {MOST_DIMENSIONS}"
        )


@dataclass(frozen=True)
class _Kind:
    type: str
    literal: Callable[[Any], str]


def float_literal(value: float) -> str:
    """A number as C++ of type double; infinite and NaN too."""
    value = float(value)
    if math.isnan(value):
        return 'std::nan("")'
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(value)


def _listed(literal: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda values: f"{{{', '.join(map(literal, values))}}}"


def _pair_literal(value: Any) -> str:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return _listed(_int_literal)(values * 2 if len(values) == 1 else values)


def _int_literal(value: Any) -> str:
    number = int(value)
    if not -(1 << 63) < number < 1 << 63:
        raise UnsupportedOpError(f"{number} does not fit 64 bits")
    return str(number)


def string_literal(text: str) -> str:
    """A text as C++."""
    octal = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{octal}"'


def _unlimited(value: Any) -> str:
    """float? with the default None, which stands for infinity."""
    return float_literal(math.inf if value is None else value)


_KINDS: Mapping[str, _Kind] = {
    "int": _Kind("int64_t", _int_literal),
    "float": _Kind("double", float_literal),
    "Optional[float]": _Kind("double", _unlimited),
    "bool": _Kind("bool", lambda value: "true" if value else "false"),
    "str": _Kind("std::string", string_literal),
    "int[2]": _Kind("Pair", _pair_literal),
    "List[int]": _Kind("std::vector<int64_t>", _listed(_int_literal)),
    "List[float]": _Kind("std::vector<double>", _listed(float_literal)),
}


def _attribute(instance: Instance, argument: Any) -> Attribute:
    name = "int[2]" if str(argument.type) == "List[int]" and argument.N == 2 else str(argument.type)
    kind = _KINDS.get(name.replace("SymInt", "int"))
    value = instance.attributes[argument.name]
    if kind is None or (value is None and name != "Optional[float]"):
        raise UnsupportedOpError(
            f"{argument.name} is {argument.type} with the value {value!r}; attributes of plugins "
            "are int, float, bool, str, int[] or float[]"
        )
    default = argument.default_value if argument.has_default_value() else value
    return Attribute(argument.name, kind.type, kind.literal(default), kind.literal(value))
