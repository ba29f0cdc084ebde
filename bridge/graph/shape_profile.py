"""The shapes that an engine accepts: for each input the least, tuned and greatest extents, from an exported program."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram

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
    """Of one tensor, whose extents may be expressions in symbols of these ranges. ExportError: as input_specs."""
    dtype = dtypes.from_torch(value.dtype)
    if dtype is None:
        advice = (
            "convert the model and its inputs with .float()"
            if value.dtype == torch.float64
            else "convert it before the model"
        )
        raise ExportError(f"input {name!r} is {value.dtype}, {dtypes.absence(value.dtype)}; {advice}")
    extents = [_extents(f"input {name!r}, dimension {axis}", extent, ranges) for axis, extent in enumerate(value.shape)]
    least, tuned, greatest = zip(*extents, strict=True) if extents else ((), (), ())
    return TensorSpec(name, dtype.name, least, tuned, greatest)


@contextlib.contextmanager
def naming_empty(inputs: Mapping[str, TensorSpec]) -> Iterator[None]:
    """Adds to TensorRT's refusal what it may come from: inputs that never have an element."""
    try:
        yield
    except BuildError as error:
        empty = [f"{name!r} of shape {spec.max}" for name, spec in inputs.items() if 0 in spec.max]
        if not empty:
            raise
        advice = "give an example with elements, and a dynamic extent where it may be 0"
        raise BuildError(f"{error}\nAn engine has nothing to do for the input {', '.join(empty)}: {advice}") from error


def _extents(where: str, extent: int | torch.SymInt, ranges: Mapping[sympy.Expr, Any]) -> tuple[int, int, int]:
    """(least, tuned, greatest) of one dimension."""
    if isinstance(extent, int):
        return extent, extent, extent
    bounds = _bounds(extent.node.expr, ranges)
    if not bounds.upper.is_Integer or bounds.upper > UNBOUNDED:
        raise ExportError(f"{where} has no upper bound; give it one: torch.export.Dim(name, min=..., max=...)")
    least, greatest = int(max(bounds.lower, 0)), int(bounds.upper)
    hint = extent.node.hint
    return least, greatest if hint is None else int(hint), greatest


def _bounds(expression: sympy.Expr, ranges: Mapping[sympy.Expr, Any]) -> Any:
    """The range of a dimension, which may be an expression such as 2*s in the symbols of others."""
    from torch.utils._sympy.value_ranges import bound_sympy

    known = ranges.get(expression)
    return known if known is not None else bound_sympy(expression, dict(ranges))
