"""The fields of a plugin: how one use of an op is spelt for TensorRT."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from bridge.base import float32
from bridge.core.op import Op
from bridge.engine_file.dtypes import DType

VERSION = "1"
# Names the tensors that are present: a plugin cannot tell which optional ones are absent. "=" marks those that never
# change.
TENSORS_FIELD = "tensors"


@dataclass(frozen=True)
class AttributeType:
    """How an attribute of one schema type is converted and spelt; `trt` and `onnx` name members of their enums."""

    convert: type
    onnx: str
    trt: str
    numpy: type


ATTRIBUTE_TYPES = {
    "int": AttributeType(int, "INT", "INT64", numpy.int64),
    "bool": AttributeType(int, "INT", "INT64", numpy.int64),
    "float": AttributeType(float, "FLOAT", "FLOAT32", numpy.float32),
    "str": AttributeType(str, "STRING", "CHAR", numpy.int8),
    "int[]": AttributeType(list, "INTS", "INT64", numpy.int64),
    "int[2]": AttributeType(list, "INTS", "INT64", numpy.int64),
    "float[]": AttributeType(list, "FLOATS", "FLOAT32", numpy.float32),
}


@dataclass(frozen=True)
class Field:
    """One plugin field."""

    name: str
    kind: AttributeType
    value: Any

    def array(self) -> numpy.ndarray:
        """The value as the buffer that TensorRT reads."""
        if self.kind.numpy is numpy.int8:
            return numpy.frombuffer(self.value.encode(), dtype=numpy.int8)
        return numpy.atleast_1d(numpy.array(self._narrow(), dtype=self.kind.numpy))

    def onnx(self) -> tuple[Any, str]:
        """The value as an ONNX attribute, and its type."""
        value = self._narrow()
        return value, "FLOATS" if isinstance(value, list) and self.kind.onnx == "FLOAT" else self.kind.onnx

    def _narrow(self) -> Any:
        """A number that float32 does not hold is several that add up to it: fields lose nothing of an attribute."""
        if self.kind.onnx != "FLOAT":
            return self.value
        terms = float32.parts(self.value)
        return terms if len(terms) > 1 else terms[0]


@dataclass(frozen=True)
class Call:
    """One use of an op in a graph.

    name: of the FX node. tensors: (dtype, shape in the example) of each tensor parameter, None where it is absent.
    outputs: the dtype of each. shapes: of each tensor parameter, -1 where an extent is dynamic; () where that is not
    known. line: of the model. constant: the tensors that are constants of the engine. results: the shape of each
    output, as `shapes` has them; () where that is not known.
    """

    name: str
    op: Op
    tensors: tuple[tuple[DType, tuple[int, ...]] | None, ...]
    outputs: tuple[DType, ...]
    attributes: dict[str, Any]
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    line: str = ""
    constant: frozenset[str] = frozenset()
    results: tuple[tuple[int, ...], ...] = ()

    def extents(self, parameter: str) -> tuple[int, ...]:
        """The shape of a tensor that is present, -1 where an extent is dynamic."""
        place = self.op.tensors.index(parameter)
        found = self.tensors[place]
        assert found is not None, f"{self.op.name}: {parameter} is absent"
        shape = self.shapes[place] if self.shapes else found[1]
        assert shape is not None
        return shape

    def fields(self) -> list[Field]:
        """Every plugin field of this use."""
        return make_fields(self.op, [tensor is not None for tensor in self.tensors], self.attributes, self.constant)


def make_fields(
    op: Op, present: Sequence[bool], attributes: dict[str, Any], constant: Container[str] = ()
) -> list[Field]:
    """Every plugin field of an op whose tensors are `present` or absent, in the order of its schema."""
    given = [name for name, is_present in zip(op.tensors, present, strict=True) if is_present]
    names = [f"{name}=" if name in constant else name for name in given]
    fields = [
        Field(a.name, ATTRIBUTE_TYPES[a.type], ATTRIBUTE_TYPES[a.type].convert(attributes[a.name]))
        for a in op.attributes
    ]
    return [*fields, Field(TENSORS_FIELD, ATTRIBUTE_TYPES["str"], ",".join(names))]


def onnx_attributes(op: Op, fields: Sequence[Field]) -> list[tuple[str, Any, str]]:
    """Name, value and type of each attribute of the ONNX node that is imported as an op's plugin with these fields."""
    own = [(field.name, *field.onnx()) for field in fields]
    return [*own, ("plugin_version", VERSION, "STRING"), ("plugin_namespace", op.namespace, "STRING")]
