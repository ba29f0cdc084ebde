"""Checks of an op in torch.export, with dynamic shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bridge.core.op import Op
from bridge.graph.one_call import OneCall
from bridge.testing.extents import extents_of


def check_export(op: Op, sizes: Callable[[int], Sequence[Any]], dynamic_shapes: Sequence[Any], **kwargs: Any) -> None:
    """torch.export with dynamic shapes: the program made at one size must be right at others.

    Args:
        sizes: arguments for a size parameter; called with 3 for the export, then with 2 and 5.
        dynamic_shapes: torch.export's, one entry an argument.
    Raises:
        AssertionError: the op is no node of the program, or a result differs from the op's own.
        Exception: torch.export's own, where it cannot leave an extent open.
    """
    model = OneCall(op.overload, kwargs)
    program = torch.export.export(model, tuple(sizes(3)), dynamic_shapes=(tuple(dynamic_shapes),))
    _check_node(op, program)
    for size in (2, 5):
        _check_program(op, program, sizes(size), kwargs)


def check_export_of(op: Op, *args: Any, **kwargs: Any) -> None:
    """torch.export of one call with every extent of 2 or more open that its reference leaves open.

    The program must be right at the call's extents, and at others where every tensor holds floating-point numbers.

    Raises:
        AssertionError: the op is no node of the program, or a result differs from the op's own.
        Exception: torch.export's own.
    """
    extents = extents_of(op, args, kwargs)
    tensors = extents.tensors
    auto = torch.export.Dim.AUTO
    open_shapes = [
        None
        if tensor is None
        else {
            axis: auto
            for axis, extent in enumerate(tensor.shape)
            if extent > 1 and not extents.axes[index, axis].is_Integer
        }
        for index, tensor in enumerate(tensors)
    ]
    model = OneCall(op.overload, extents.attributes)
    program = torch.export.export(model, tuple(tensors), dynamic_shapes=(tuple(open_shapes),))
    _check_node(op, program)
    _check_program(op, program, tensors, extents.attributes)
    values = [extents.values[symbol] for symbol in extents.symbols]
    shapes = extents.at({symbol: value + (value > 1) for symbol, value in zip(extents.symbols, values, strict=True)})
    others = extents.tensors_at(shapes) if shapes and extents.takes(shapes) else None
    if others is not None:
        _check_program(op, program, others, extents.attributes)


def _check_node(op: Op, program: torch.export.ExportedProgram) -> None:
    assert any(node.target is op.overload for node in program.graph.nodes), f"{op.name} was decomposed"


def _check_program(
    op: Op, program: torch.export.ExportedProgram, values: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    torch.testing.assert_close(program.module()(*values), op.overload(*values, **kwargs), equal_nan=True)
