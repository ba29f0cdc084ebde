"""The shape profile of an engine: the minimum, tuned and maximum extents of each input of an exported program."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bridge.engine_file import dtypes
from bridge.engine_file.contents import TensorSpec
from bridge.errors import BuildError, ExportError

UNBOUNDED = 2**31 - 1  # greater extents fit no TensorRT dimension


def input_specs(program: ExportedProgram) -> dict[str, TensorSpec]:
    """Every tensor input by its placeholder's name, in the order of the call's flattened arguments.

    The tuned extents are the example's.

    Raises:
        ExportError: an input's dtype has no counterpart in TensorRT, or a dynamic dimension has no upper bound.
    """
    specs = {}
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in program.graph_signature.user_inputs and isinstance(node.meta.get("val"), torch.Tensor):
            specs[node.name] = input_spec(node.name, node.meta["val"], program.range_constraints)
    return specs


def input_spec(name: str, value: torch.Tensor, ranges: Mapping[sympy.Expr, Any]) -> TensorSpec:
    """The spec of one tensor; `ranges` holds the range of each symbol in its shape. ExportError: as input_specs."""
    dtype = dtypes.from_torch(value.dtype)
    if dtype is None:
        advice = (
            "convert the model and its inputs with .float()"
            if value.dtype == torch.float64
            else "convert it before the model"
        )
        raise ExportError(f"input {name!r} is {value.dtype}, {dtypes.absence(value.dtype)}; {advice}")
    extents = [
        _extent_range(f"input {name!r}, dimension {axis}", extent, ranges) for axis, extent in enumerate(value.shape)
    ]
    least, tuned, greatest = zip(*extents, strict=True) if extents else ((), (), ())
    return TensorSpec(name, dtype.name, least, tuned, greatest)


def symbolic_shapes(nodes: Mapping[str, Node]) -> dict[str, list[int | str]]:
    """The shapes of nodes by name, with the text of each dynamic extent: extents with equal texts are equal.

    A node without a shape is left out.
    """
    values = {name: node.meta.get("val") for name, node in nodes.items()}
    return {
        name: [extent if isinstance(extent, int) else str(extent.node.expr) for extent in value.shape]
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


@contextlib.contextmanager
def explaining_empty_inputs(inputs: Mapping[str, TensorSpec]) -> Iterator[None]:
    """Adds to a BuildError a probable cause: inputs that are always empty."""
    try:
        yield
    except BuildError as error:
        empty = [f"{name!r} of shape {spec.max}" for name, spec in inputs.items() if 0 in spec.max]
        if not empty:
            raise
        advice = "give an example with elements, and a dynamic extent where it may be 0"
        raise BuildError(f"{error}\nAn engine has nothing to do for the input {', '.join(empty)}: {advice}") from error


def _extent_range(where: str, extent: int | torch.SymInt, ranges: Mapping[sympy.Expr, Any]) -> tuple[int, int, int]:
    """(min, tuned, max) of one dimension."""
    if isinstance(extent, int):
        return extent, extent, extent
    bounds = _extent_bounds(extent.node.expr, ranges)
    if not bounds.upper.is_Integer or bounds.upper > UNBOUNDED:
        raise ExportError(f"{where} has no upper bound; give it one: torch.export.Dim(name, min=..., max=...)")
    least, greatest = int(max(bounds.lower, 0)), int(bounds.upper)
    hint = extent.node.hint
    return least, greatest if hint is None else int(hint), greatest


def _extent_bounds(expression: sympy.Expr, ranges: Mapping[sympy.Expr, Any]) -> Any:
    """The range of a dimension, which may be an expression such as 2*s in the symbols of others."""
    from torch.utils._sympy.value_ranges import bound_sympy

    known = ranges.get(expression)
    return known if known is not None else bound_sympy(expression, dict(ranges))
