"""The names of dynamic dimensions in an ONNX file: those of the user's Dims, else the input's with the axis."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bridge.engine.call_structure import argument_names


def dimension_names(program: ExportedProgram, dynamic_shapes: Any) -> dict[str, str]:
    """A name for every symbol of the inputs' shapes, by its name in the program.

    dynamic_shapes: as torch.export takes them; None where they are not known.
    """
    dims = _dims_of_leaves(program, dynamic_shapes)
    names: dict[str, str] = {}
    for place, (argument, value) in enumerate(_leaves(program)):
        for axis, extent in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if isinstance(extent, torch.SymInt):
                name = _dim_name(dims.get(place), axis) or f"{argument}_{axis}"
                for symbol in extent.node.expr.free_symbols:
                    names.setdefault(str(symbol), name)
    return names


def _leaves(program: ExportedProgram) -> list[tuple[str, Any]]:
    """Name and value of each leaf of the arguments, in order."""
    values = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    return [(spec.arg.name, values.get(spec.arg.name)) for spec in specs]


def _dims_of_leaves(program: ExportedProgram, dynamic_shapes: Any) -> dict[int, Any]:
    """What dynamic_shapes says of each leaf of the arguments, by its place."""
    in_spec = program.call_spec.in_spec
    args, kwargs = pytree.tree_unflatten(list(range(in_spec.num_leaves)), in_spec)
    names = argument_names(program, in_spec)
    structure = dict(zip(names, [*args, *kwargs.values()], strict=True))
    if isinstance(dynamic_shapes, (tuple, list)):
        dynamic_shapes = dict(zip(names, dynamic_shapes, strict=False))
    return dict(_pairs(structure, dynamic_shapes))


def _pairs(structure: Any, shapes: Any) -> Iterator[tuple[int, Any]]:
    """Each leaf of a structure with what stands in the same place of another one."""
    if isinstance(structure, int):
        yield structure, shapes
    elif isinstance(structure, Mapping) and isinstance(shapes, Mapping):
        for key, value in structure.items():
            yield from _pairs(value, shapes.get(key))
    elif isinstance(structure, (tuple, list)) and isinstance(shapes, (tuple, list)):
        for value, shape in zip(structure, shapes, strict=False):
            yield from _pairs(value, shape)


def _dim_name(shape: Any, axis: int) -> str | None:
    """The name of the Dim at an axis; of a multiple of one, such as 8 * Dim("side"), that of the one."""
    if isinstance(shape, (tuple, list)):
        shape = dict(enumerate(shape))
    dim = shape.get(axis) if isinstance(shape, Mapping) else None
    dim = getattr(dim, "root", dim)
    return dim if isinstance(dim, str) else getattr(dim, "__name__", None)
