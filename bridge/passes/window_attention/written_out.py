"""Attention that is written out: softmax(mask(cap(scale q kᵀ))) v, perhaps with sinks.

It is read from the softmax back to the queries and keys, and on to the product with the values. Conversions between
real numbers are skipped: the op's logits, softmax and sums are float32.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import (
    CONVERSIONS,
    arguments,
    aten,
    is_copy,
    same_extents,
    transpose_of,
    users_of,
    value,
)

_MASKS = {aten.add.Tensor, aten.where.self, aten.where.ScalarOther, aten.masked_fill.Scalar, aten.masked_fill.Tensor}
_DIVISIONS = {aten.div.Tensor, aten.div.Scalar}
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar, *_DIVISIONS}


@dataclass(frozen=True)
class Logits:
    """What a softmax is taken of: masks of cap(scale q kᵀ), and sinks as the last column."""

    q: Node
    k: Node
    masks: tuple[Node, ...]
    scale: float
    softcap: float
    sinks: Node | None


def find_logits(softmax: Node, constants: Constants) -> Logits | None:
    """The masked logits of queries and keys that a softmax is taken of; None for another softmax."""
    tensor = value(softmax)
    if tensor is None or tensor.dim() != 4 or arguments(softmax)["dim"] not in (-1, 3):
        return None
    node, sinks = _without_sinks(_without_largest(_source(softmax.args[0])))
    masks = []
    while node.target in _MASKS:
        masks.append(node)
        node = _source(arguments(node)[masked_side(node)])
    node, softcap = without_cap(node, constants)
    product, scale = _without_scale(node, constants)
    if not masks or product.target is not aten.matmul.default:
        return None
    q, k = product.args[0], transpose_of(product.args[1], -2, -1)
    return Logits(q, k, tuple(masks), scale, softcap, sinks) if isinstance(q, Node) and k is not None else None


def product_with_values(softmax: Node, has_sinks: bool) -> tuple[Node, bool] | None:
    """The product of the weights with the values, and whether nothing else uses the weights; None if there is none."""
    node, alone = softmax, True
    while True:
        users = users_of(node)
        ahead = [user for user in users if user.args[0] is node and _leads_on(user, has_sinks)]
        if len(ahead) != 1:
            return None
        alone = alone and len(users) == 1
        node = ahead[0]
        if node.target is aten.matmul.default:
            return node, alone
        has_sinks = has_sinks and not _cuts_last(node)


def before_widening(node: Any, like: Any) -> Any:
    """The node before it is converted from the dtype of another node."""
    source, target = node, value(like)
    while target is not None and value(source) is not None and source.meta["val"].dtype != target.dtype:
        if source.target not in CONVERSIONS:
            return node
        source = source.args[0]
    return source


def masked_side(node: Node) -> str:
    """The name of the argument that a mask is applied to: that which is computed with a matrix product."""
    given = arguments(node)
    return "other" if _has_product(given.get("other")) and not _has_product(given["self"]) else "self"


def _has_product(node: Any, depth: int = 8) -> bool:
    while isinstance(node, Node) and depth:
        if node.target is aten.matmul.default:
            return True
        node, depth = (node.args[0] if node.args else None), depth - 1
    return False


def _source(node: Any) -> Any:
    """The node before copies and conversions to other real numbers."""
    while isinstance(node, Node) and (is_copy(node) or (node.target in CONVERSIONS and _is_real(node.args[0]))):
        node = node.args[0]
    return node


def _is_real(node: Any) -> bool:
    tensor = value(node)
    return tensor is not None and tensor.dtype.is_floating_point


def _without_largest(node: Node) -> Node:
    """Logits before their largest is subtracted, which changes no weight."""
    if node.target is not aten.sub.Tensor or not isinstance(node.args[1], Node) or arguments(node)["alpha"] != 1:
        return node
    largest = node.args[1]
    if largest.op == "call_function" and largest.args[1:] == (0,):  # the values of values and indices
        largest = largest.args[0]  # type: ignore[assignment]
    if largest.target not in (aten.max.dim, aten.amax.default) or largest.args[0] is not node.args[0]:
        return node
    given = arguments(largest)
    over_keys = given["dim"] in (-1, 3, [-1], [3]) and given["keepdim"]
    return _source(node.args[0]) if over_keys else node


def _without_sinks(node: Node) -> tuple[Node, Node | None]:
    """The logits, and one more logit of each query where there is one."""
    parts = node.args[0] if node.target is aten.cat.default else ()
    if not isinstance(parts, (list, tuple)) or len(parts) != 2 or arguments(node)["dim"] not in (-1, 3):
        return node, None
    logits, sinks = parts
    tensor = value(sinks)
    if tensor is None or not statically_known_true(tensor.shape[-1] == 1):
        return node, None
    return _source(logits), sinks  # type: ignore[return-value]


def without_cap(node: Node, constants: Constants) -> tuple[Node, float]:
    """x and c of c tanh(x / c); the node and 0 where it is something else."""
    tanh, cap = _factors(node, constants)
    if tanh is None or tanh.target is not aten.tanh.default:
        return node, 0.0
    logits, factor = _factors(_source(tanh.args[0]), constants)
    is_cap = logits is not None and cap > 0 and math.isclose(factor * cap, 1.0, rel_tol=1e-6)
    return (logits, cap) if is_cap and logits is not None else (node, 0.0)


def _without_scale(node: Node, constants: Constants) -> tuple[Node, float]:
    """The node before it is multiplied or divided by numbers, and the factor."""
    scale = 1.0
    while True:
        source, factor = _factors(node, constants)
        if source is None:
            return node, scale
        node, scale = source, scale * factor


def _factors(node: Any, constants: Constants) -> tuple[Node | None, float]:
    """The node that another multiplies by a number, and the number; None where it is something else."""
    if not isinstance(node, Node) or node.target not in _PRODUCTS:
        return None, 1.0
    source, number = node.args[:2]
    if isinstance(number, Node):
        fixed = constants.value(number)
        number = fixed.item() if fixed is not None and fixed.numel() == 1 else None
    if not isinstance(source, Node) or not isinstance(number, (int, float)) or number == 0:
        return None, 1.0
    return _source(source), 1.0 / number if node.target in _DIVISIONS else float(number)


def _leads_on(node: Node, has_sinks: bool) -> bool:
    """Whether a user of weights is the product with the values, or only a step on the way."""
    if node.target is aten.matmul.default:
        return not has_sinks
    is_idle_dropout = node.target is aten.dropout.default and (not node.args[2] or node.args[1] == 0)
    return is_copy(node) or bool(is_idle_dropout) or node.target in CONVERSIONS or (has_sinks and _cuts_last(node))


def _cuts_last(node: Node) -> bool:
    """Whether a node is its argument without the last element of the last dimension."""
    if node.target is not aten.slice.Tensor:
        return False
    given, before, after = arguments(node), value(node.args[0]), value(node)
    if before is None or after is None or given["dim"] not in (-1, 3) or given["step"] != 1:
        return False
    return given["start"] in (None, 0) and same_extents(after.shape[-1:], [before.shape[-1] - 1])
