"""What is known of extents while a graph is lowered, without assumptions on dynamic ones."""

import math
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._sympy.value_ranges import bound_sympy


def known(extent: Any) -> bool:
    """Whether an extent is fixed."""
    return isinstance(extent, int)


def known_equal(a: Any, b: Any) -> bool:
    """Whether two extents are equal for every input. Adds no guard."""
    return statically_known_true(a == b)


def most(*extents: Any) -> float:
    """The upper bound of the product of extents; infinity if nothing bounds them."""
    return math.prod(map(_upper, extents))


def _upper(extent: Any) -> float:
    if isinstance(extent, int):
        return extent
    assert isinstance(extent, torch.SymInt), extent
    node = extent.node
    upper = bound_sympy(node.expr, node.shape_env.var_to_range if node.shape_env else {}).upper
    return int(upper) if upper.is_Integer else math.inf
