"""Keeps from torch_tensorrt's converters, in its own compile, the calls for which they give wrong numbers or fail.

Uneven adaptive pooling gets bridge's converter, and scatter_reduce its decomposition. PyTorch runs the others, between
engines; bridge's own doors decompose them.
"""

import contextlib
import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.operator_schemas import normalize_function

from bridge.tensorrt.decompositions import scattering
from bridge.tensorrt.decompositions.resizing import by_factors, is_whole
from bridge.tensorrt.guest import adaptive_pooling
from bridge.tensorrt.install import version_shims

aten = torch.ops.aten
Takes = Callable[[Node], bool]


def mend(stack: contextlib.ExitStack) -> None:
    """Narrows the converters until the stack closes."""
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS as table
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import ConverterSupport

    for target, is_right in _rules():
        before = table.get(target)
        if before is None:  # in a version that has no converter of it
            continue
        entries = [_narrowed(entry, is_right) for entry in before]
        if target in adaptive_pooling.TARGETS:
            entries.insert(0, ConverterSupport(adaptive_pooling.convert, _has_uneven_windows, True))
        table[target] = entries
        stack.callback(table.__setitem__, target, before)
    _mend_scatter_reduce(stack)


def _mend_scatter_reduce(stack: contextlib.ExitStack) -> None:
    """torch_tensorrt's decomposition is wrong for means and for integers, and fails with include_self=False."""
    from torch_tensorrt.dynamo.lowering._decompositions import TORCH_TRT_DECOMPOSITIONS as table

    target = aten.scatter_reduce.two
    before = table.get(target)
    if before is None:
        return

    def decompose(x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool = True) -> Any:
        fixed = all(isinstance(extent, int) for tensor in (x, index, src) for extent in tensor.shape)
        if not fixed or (reduce in ("amax", "amin") and not x.is_floating_point()):  # the converters round its bounds
            return NotImplemented
        return scattering.scatter_reduce(x, dim, index, src, reduce, include_self=include_self)

    table[target] = decompose
    stack.callback(table.__setitem__, target, before)


def _rules() -> Iterator[tuple[Any, Takes]]:
    """(operator, for which calls its converter is right)."""
    yield aten.index_put.default, _writes
    yield aten.softplus.default, _is_smooth
    yield aten.convolution.default, _cuts_more_than_it_adds
    yield from ((target, _has_even_windows) for target in adaptive_pooling.TARGETS)
    yield from ((target, _resizes_to_whole) for target in by_factors())


def _has_even_windows(node: Node) -> bool:
    """It gives all windows one size."""
    return adaptive_pooling.windows_of(node) == "even"


def _has_uneven_windows(node: Node, settings: Any = None) -> bool:
    return not version_shims.in_own_conversion() and adaptive_pooling.windows_of(node) == "uneven"


def _writes(node: Node) -> bool:
    """It loses all but one of the values that are added at equal indices."""
    return not _arguments(node).get("accumulate")


def _is_smooth(node: Node) -> bool:
    """It ignores the threshold beyond which softplus is the identity; from 20 on the difference is below rounding."""
    return _arguments(node)["threshold"] >= 20


def _cuts_more_than_it_adds(node: Node) -> bool:
    """It loses what a transposed convolution adds at its ends, if that is more than its padding."""
    given = _arguments(node)
    return not given["transposed"] or all(map(operator.le, given["output_padding"], given["padding"]))


def _resizes_to_whole(node: Node) -> bool:
    """It computes coordinates from the rounded extents, PyTorch from the factor."""
    given = _arguments(node)
    factors = given.get("scale_factors")
    if factors is None or given.get("align_corners"):
        return True
    extents = adaptive_pooling.extents_of(given["input"])[2:]
    return len(extents) == len(factors) and all(map(is_whole, extents, factors))


def _arguments(node: Node) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    given = normalize_function(node.target, node.args, dict(node.kwargs), normalize_to_only_use_kwargs=True)  # type: ignore[arg-type]
    assert given is not None, node.target
    return given.kwargs


def _narrowed(entry: Any, is_right: Takes) -> Any:
    """The entry of a converter that takes only calls for which it is right; bridge's own conversion has no others."""

    def takes(node: Node, settings: Any = None) -> bool:
        right = version_shims.in_own_conversion() or is_right(node)
        return right and entry.capability_validator(node, settings)

    return dataclasses.replace(entry, capability_validator=takes)
