"""Products of attention: queries with keys, weights with values; what is multiplied beside them."""

import math
from typing import Any

from torch.fx import Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import CONVERSIONS, arguments, aten, before_copies, is_copy, transpose_of, value

_DIVISIONS = {aten.div.Tensor, aten.div.Scalar}
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar, *_DIVISIONS}
_LEAST_NORM = 1e-12  # of bridge.swin_attention, and torch.nn.functional.normalize's own
_NORMS = {aten.linalg_vector_norm.default: "ord", aten.norm.ScalarOpt_dim: "p"}


def source(node: Any) -> Any:
    """The node before copies and conversions to other real numbers, and before a dropout that drops nothing."""
    while isinstance(node, Node) and (is_copy(node) or _is_real_conversion(node) or is_idle_dropout(node)):
        node = node.args[0]
    return node


def is_idle_dropout(node: Node) -> bool:
    """Whether a node is a dropout that drops nothing."""
    return node.target is aten.dropout.default and bool(not node.args[2] or node.args[1] == 0)


def _is_real_conversion(node: Node) -> bool:
    before, after = value(node.args[0]) if node.args else None, value(node)
    real = before is not None and after is not None and before.dtype.is_floating_point and after.dtype.is_floating_point
    return node.target in CONVERSIONS and real


def of_keys(node: Any) -> tuple[Node, Node] | None:
    """q and k of q kᵀ over the last dimension of both; None for another node."""
    if not isinstance(node, Node):
        return None
    if node.target is aten.matmul.default:
        q, k = node.args[0], transpose_of(before_copies(node.args[1]), -2, -1)
        return (q, k) if isinstance(q, Node) and k is not None else None
    return _of_einsum(node, transposed=True)


def of_values(node: Any) -> tuple[Node, Node] | None:
    """Weights and v of their product, over the last dimension of the weights; None for another node."""
    if not isinstance(node, Node):
        return None
    if node.target is aten.matmul.default:
        weights, v = node.args[:2]
        return (weights, v) if isinstance(weights, Node) and isinstance(v, Node) else None
    return _of_einsum(node, transposed=False)


def _of_einsum(node: Node, transposed: bool) -> tuple[Node, Node] | None:
    """The operands of an einsum such as "bid,bjd->bij", or where it is not transposed "bij,bjd->bid"."""
    if node.target is not aten.einsum.default or len(node.args[1]) != 2:  # type: ignore[arg-type]
        return None
    left, _, result = str(node.args[0]).replace(" ", "").partition("->")
    first, _, second = left.partition(",")
    if min(len(first), len(second), len(result)) < 3 or len(set(first + second)) != len(first) + 1 or "." in left:
        return None
    batch, row, inner = first[:-2], first[-2], first[-1]
    other = second[-2] if transposed else second[-1]
    expected = batch + (other + inner if transposed else inner + other)
    operands: Any = node.args[1]
    return tuple(operands) if second == expected and result == batch + row + other else None


def without_scale(node: Any, constants: Constants) -> tuple[Any, float]:
    """The node before it is multiplied or divided by numbers, and the factor."""
    scale = 1.0
    while True:
        node = source(node)
        factor = _number(node, constants)
        if factor is None:
            return node, scale
        node, scale = node.args[0], scale * factor


def _number(node: Any, constants: Constants) -> float | None:
    """The number that a node's first argument is multiplied by; None where it is something else."""
    if not isinstance(node, Node) or node.target not in _PRODUCTS:
        return None
    number = node.args[1]
    if isinstance(number, Node):
        fixed = constants.value(number)
        number = fixed.item() if fixed is not None and fixed.numel() == 1 else None
    if not isinstance(number, (int, float)) or number == 0 or not math.isfinite(number):
        return None
    return 1.0 / number if node.target in _DIVISIONS else float(number)


def factors_of(node: Any) -> list[tuple[Node, Node]]:
    """The two factors of a product of tensors, in both orders; empty for another node."""
    if not isinstance(node, Node) or node.target is not aten.mul.Tensor:
        return []
    a, b = node.args[:2]
    return [(a, b), (b, a)] if isinstance(a, Node) and isinstance(b, Node) else []


def without_norm(node: Node) -> Node | None:
    """x of x / max(|x|, 1e-12), along the last dimension; None where a node is something else."""
    if node.target is not aten.div.Tensor or not isinstance(node.args[1], Node):
        return None
    x, length = source(node.args[0]), source(node.args[1])
    while length.target in (aten.expand.default, aten.expand_as.default):
        length = source(length.args[0])
    if length.target not in (aten.clamp_min.default, aten.clamp.default):
        return None
    given = arguments(length)
    norm = source(given["self"])
    if given["min"] != _LEAST_NORM or given.get("max") is not None or norm.target not in _NORMS:
        return None
    if source(norm.args[0]) is not x:
        return None
    given, rank = arguments(norm), x.meta["val"].dim()
    last = [dim % rank for dim in given["dim"] or ()] == [rank - 1]
    return x if last and given["keepdim"] and given[_NORMS[norm.target]] == 2 else None
