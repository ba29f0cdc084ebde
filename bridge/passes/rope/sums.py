"""The value of a lane as a sum of signed products of lanes: the normal form for comparing element-wise code.

Sums and products are expanded one level deep, which suffices for `x * cos + y * sin`. Factors are traced through moves,
signs and exact conversions only.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from bridge.passes.common.nodes import arguments, value
from bridge.passes.rope.lanes import Lane, operand
from bridge.passes.rope.moves import cast_from, row_source, step

aten = torch.ops.aten
Product = tuple[Lane, ...]
Sum = dict[Product, float]  # products, with factors in a fixed order, and their coefficients


class Factor(NamedTuple):
    """A lane in a product, and its sign."""

    sign: int
    lane: Lane


class Reader:
    """Reads lanes of a graph as sums.

    rounded: the dtype to which sums may be rounded. canonical: see nodes.canonical_nodes. visited: every node read.
    """

    def __init__(self, canonical: Mapping[Node, Node], rounded: torch.dtype) -> None:
        self.canonical = canonical
        self._rounded = rounded
        self.visited: set[Node] = set()

    def factor(self, lane: Lane) -> Factor:
        """The origin of a lane, through moves, signs and exact conversions."""
        sign = 1
        while (previous := self._factor_step(lane)) is not None:
            sign, lane = sign * previous.sign, previous.lane
        self.visited.add(lane.node)
        return Factor(sign, Lane(self.canonical[lane.node], lane.at))

    def sum(self, lane: Lane) -> Sum:
        """The value of a lane."""
        self.visited.add(lane.node)
        moved = step(lane)
        if moved is not None:
            return self.sum(moved)
        source = cast_from(lane.node)
        if source is not None and self._keeps_sums(lane.node, source):
            return self.sum(Lane(source, lane.at))
        expand = _SUMS.get(lane.node.target)
        terms = None if expand is None else expand(self, lane, arguments(lane.node))
        if terms is not None:
            return terms
        factor = self.factor(lane)
        return {(factor.lane,): float(factor.sign)}

    def equal(self, a: Lane, b: Lane) -> bool:
        """Whether two lanes of one tensor hold equal values, as in `cat((angles, angles)).cos()`."""
        (a, rows), (b, other_rows) = self._origin(a), self._origin(b)
        if rows != other_rows:  # the lanes are those of different rows
            return False
        if a == b:
            return True
        if a.node is not b.node or len(a.at) != len(b.at) or not _is_pointwise(a.node):
            return False
        tensors = [argument for argument in a.node.all_input_nodes if value(argument) is not None]
        return all(self.equal(operand(a, tensor), operand(b, tensor)) for tensor in tensors)

    def product(self, lane: Lane, *arguments: Any) -> Sum | None:
        """The product of tensors and numbers, element-wise."""
        coefficient, lanes = 1.0, []
        for argument in arguments:
            if isinstance(argument, Node):
                if not _is_like(argument, lane.node):
                    return None
                factor = self.factor(operand(lane, argument))
                coefficient *= factor.sign
                lanes.append(factor.lane)
            elif isinstance(argument, (int, float)):
                coefficient *= argument
            else:
                return None
        return {_ordered(lanes): coefficient}

    def _keeps_sums(self, node: Node, source: Node) -> bool:
        """Whether a conversion is between a wider dtype and the one to which sums may be rounded."""
        narrow, wide = (source, node) if _is_exact(node, source) else (node, source)
        return _dtype(narrow) == self._rounded and torch.promote_types(_dtype(narrow), _dtype(wide)) == _dtype(wide)

    def _origin(self, lane: Lane) -> tuple[Lane, list[str]]:
        """The origin of a lane through moves and row operations, and the text of each row operation."""
        rows: list[str] = []
        while True:
            self.visited.add(lane.node)
            moved = step(lane)
            if moved is None and (moved := row_source(lane)) is not None:
                rows.append(self._call_text(lane.node))
            if moved is None:
                return Lane(self.canonical[lane.node], lane.at), rows
            lane = moved

    def _call_text(self, node: Node) -> str:
        """A text that is equal for calls that do the same to their first argument."""
        given = (node.args[1:], node.kwargs)
        return f"{node.target}{torch.fx.map_arg(given, lambda argument: self.canonical[argument].name)}"

    def _factor_step(self, lane: Lane) -> Factor | None:
        self.visited.add(lane.node)
        moved = step(lane)
        if moved is not None:
            return Factor(1, moved)
        if (sign := _sign(lane.node)) is not None:
            return Factor(sign, operand(lane, lane.node.args[0]))  # type: ignore[arg-type]
        source = cast_from(lane.node)
        return Factor(1, Lane(source, lane.at)) if source is not None and _is_exact(lane.node, source) else None


def add(*sums: tuple[float, Sum]) -> Sum:
    """The sum of several sums, each times a number."""
    total: Sum = defaultdict(float)
    for scale, terms in sums:
        for product, coefficient in terms.items():
            total[product] += scale * coefficient
    return {product: coefficient for product, coefficient in total.items() if coefficient}


def _add(reader: Reader, lane: Lane, given: Mapping[str, Any], sign: int = 1) -> Sum | None:
    left, right, alpha = given["self"], given["other"], given["alpha"]
    if not all(isinstance(side, Node) and _is_like(side, lane.node) for side in (left, right)):
        return None
    if not isinstance(alpha, (int, float)):
        return None
    return add((1, reader.sum(operand(lane, left))), (sign * alpha, reader.sum(operand(lane, right))))


def _subtract(reader: Reader, lane: Lane, given: Mapping[str, Any]) -> Sum | None:
    return _add(reader, lane, given, -1)


def _negate(reader: Reader, lane: Lane, given: Mapping[str, Any]) -> Sum | None:
    return add((-1, reader.sum(Lane(given["self"], lane.at))))


def _multiply(reader: Reader, lane: Lane, given: Mapping[str, Any]) -> Sum | None:
    left, right = given["self"], given["other"]
    if not _is_complex(lane.node):
        numbers = [side for side in (left, right) if not isinstance(side, Node)]
        if numbers and isinstance(numbers[0], (int, float)) and isinstance(left, Node):
            return add((numbers[0], reader.sum(operand(lane, left))))
        return reader.product(lane, left, right)
    if not all(isinstance(side, Node) and _is_complex(side) for side in (left, right)):
        return None
    real, imaginary = (Lane(lane.node, (*lane.at[:-1], part)) for part in (0, 1))
    # (a + bi)(c + di) = (ac - bd) + (ad + bc)i
    pairs = [(1, real, real), (-1, imaginary, imaginary)]
    if lane.at[-1]:
        pairs = [(1, real, imaginary), (1, imaginary, real)]
    products = [(sign, _lane_product(reader, operand(a, left), operand(b, right))) for sign, a, b in pairs]
    return add(*products)


def _lane_product(reader: Reader, *lanes: Lane) -> Sum:
    factors = [reader.factor(lane) for lane in lanes]
    return {_ordered([factor.lane for factor in factors]): float(factors[0].sign * factors[1].sign)}


def _add_product(reader: Reader, lane: Lane, given: Mapping[str, Any]) -> Sum | None:
    first = given["self"]
    product = reader.product(lane, given["tensor1"], given["tensor2"], given["value"])
    if product is None or not _is_like(first, lane.node):
        return None
    return add((1, reader.sum(operand(lane, first))), (1, product))


def _ordered(lanes: list[Lane]) -> Product:
    return tuple(sorted(lanes, key=lambda lane: (lane.node.name, lane.at)))


def _is_like(node: Node, result: Node) -> bool:
    """Whether a node is a tensor, real or complex as the result is."""
    tensor = value(node)
    return tensor is not None and tensor.is_complex() == _is_complex(result)


def _is_complex(node: Node) -> bool:
    tensor = value(node)
    return tensor is not None and tensor.is_complex()


def _dtype(node: Node) -> torch.dtype:
    return node.meta["val"].dtype


def _sign(node: Node) -> int | None:
    """1 or -1 for a node that multiplies its first argument by it; else None."""
    if node.target is aten.neg.default:
        return -1
    if node.target in (aten.mul.Tensor, aten.mul.Scalar) and node.args[1] in (1, -1):
        source = value(node.args[0])
        keeps_dtype = source is not None and source.dtype == node.meta["val"].dtype
        return int(node.args[1]) if keeps_dtype else None  # type: ignore[arg-type]
    return None


def _is_pointwise(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return cast_from(node) is not None or (torch.Tag.pointwise in tags and not node.target._schema.is_mutable)  # type: ignore[union-attr]


def _is_exact(node: Node, source: Node) -> bool:
    """Whether a conversion between floating-point dtypes keeps every value."""
    before, after = _dtype(source), _dtype(node)
    both = before.is_floating_point and after.is_floating_point
    return both and torch.promote_types(before, after) == after


_SUMS: dict[Any, Callable[[Reader, Lane, Mapping[str, Any]], Sum | None]] = {
    aten.add.Tensor: _add,
    aten.sub.Tensor: _subtract,
    aten.neg.default: _negate,
    aten.mul.Tensor: _multiply,
    aten.mul.Scalar: _multiply,
    aten.addcmul.default: _add_product,
}
