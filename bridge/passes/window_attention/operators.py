"""The operators whose results have formulas: one table, from operator to rule."""

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch.fx import Node

from bridge.passes.common.nodes import CONVERSIONS, SAME_ORDER, aten
from bridge.passes.window_attention import moves
from bridge.passes.window_attention.formulas import (
    EXACT,
    Formula,
    Unread,
    axis,
    constant,
    formula,
    is_one,
    of_condition,
    where,
)
from bridge.passes.window_attention.reader import Reader, Rule, pointwise


def _fill(argument: str) -> Rule:
    """A tensor of one number: an argument of the call."""
    return lambda reader, node, given: _converted(node, reader.formula(given[argument]))


def _filled(number: int) -> Rule:
    """A tensor of one number."""
    return lambda reader, node, given: _converted(node, constant((), torch.int64, sympy.Integer(number)))


def _converted(node: Node, source: Formula) -> Formula:
    """A formula in the dtype of a node, broadcast to its shape."""
    tensor = node.meta["val"]
    return moves.converted(source, tensor.dtype).broadcast(tensor.shape)


def _arange(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    tensor = node.meta["val"]
    if tensor.dtype not in EXACT:
        raise Unread(f"a range of {tensor.dtype}")
    first, step = (reader.integer(given.get(name, default)) for name, default in (("start", 0), ("step", 1)))
    return constant(tensor.shape, tensor.dtype, first + step * axis(0))


def _logical(combine: Callable[..., Any]) -> Rule:
    """Of boolean tensors: a combination of their conditions."""

    def rule(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
        shape = node.meta["val"].shape
        if node.meta["val"].dtype != torch.bool:  # of the bits of integers
            return pointwise(reader, node, None)
        operands = [reader.operand(given[name], shape) for name in ("self", "other") if name in given]
        return of_condition(shape, combine(*(each.condition for each in operands)))

    return rule


def _arithmetic(symbolic: Callable[..., Any]) -> Rule:
    """An element-wise operator on integers: `symbolic` takes the call's arguments by name."""
    return lambda reader, node, given: pointwise(reader, node, symbolic)


def _binary(compute: Callable[[Any, Any], Any]) -> Rule:
    return _arithmetic(lambda self, other, **_: compute(sympy.sympify(self), sympy.sympify(other)))


def _comparison(compare: Callable[[Any, Any], Any]) -> Rule:
    """Of integers, also with a real number that is whole, and no larger than the dtype of the comparison is exact."""

    def rule(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
        sides = (given["self"], given["other"])
        dtype = torch.result_type(*(each.meta["val"] if isinstance(each, Node) else each for each in sides))
        most = 1 / torch.finfo(dtype).eps if dtype.is_floating_point else 0
        return _binary(lambda a, b: compare(_as_integer(a, most), _as_integer(b, most)))(reader, node, given)

    return rule


def _as_integer(number: Any, most: float) -> Any:
    is_whole = number.is_Float and abs(number) <= most and float(number).is_integer()
    return sympy.Integer(int(number)) if is_whole else number


def _floored(number: Any, divisor: Any) -> Any:
    if not (divisor.is_Integer and divisor > 0):
        raise Unread(f"a quotient by {divisor}")
    return sympy.floor(number / divisor)


def _remainder(number: Any, divisor: Any) -> Any:
    return number - divisor * _floored(number, divisor)


def _where(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    return _chosen(reader, node, given["condition"], given["self"], given["other"])


def _masked_fill(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    return _chosen(reader, node, given["mask"], given["value"], given["self"])


def _chosen(reader: Reader, node: Node, condition: Any, on_true: Any, on_false: Any) -> Formula:
    tensor = node.meta["val"]
    where_true = reader.operand(condition, tensor.shape).condition
    pair = [moves.converted(reader.operand(each, tensor.shape), tensor.dtype) for each in (on_true, on_false)]
    return where(tensor.shape, where_true, *pair)


def _abs(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    source = reader.formula(given["self"])
    if source.dtype.is_floating_point:
        return pointwise(reader, node, None)
    value = source.integer
    return formula(source.shape, source.dtype, [(value >= 0, value), (value < 0, -value)])


def _triangle(keep: Callable[[Any, Any], Any]) -> Rule:
    """A tensor with zeros on one side of a diagonal."""

    def rule(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
        source = reader.formula(given["self"])
        rank = len(source.shape)
        kept = keep(axis(rank - 1) - axis(rank - 2), reader.integer(given["diagonal"]))
        zero = _converted(node, constant((), torch.int64, sympy.Integer(0)))
        return where(source.shape, kept, source, zero)

    return rule


def _diff(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """The differences of an arithmetic progression, from the number before it."""
    source = reader.formula(given["self"])
    dim = given["dim"] % len(source.shape)
    before = None if given["prepend"] is None else reader.formula(given["prepend"])
    step = (source.integer - source.integer.xreplace({axis(dim): axis(dim) - 1})).expand()
    if given["n"] != 1 or given["append"] is not None or before is None or step.has(axis(dim)):
        raise Unread("differences of no arithmetic progression")
    first = source.integer.xreplace({axis(dim): sympy.Integer(0)}) - before.integer.xreplace(
        {axis(dim): sympy.Integer(0)}
    )
    if not is_one(before.shape[dim]) or (first - step).expand() != 0:
        raise Unread("differences of a progression with another first step")
    return constant(node.meta["val"].shape, source.dtype, step)


def _cumsum(reader: Reader, node: Node, given: dict[str, Any]) -> Formula:
    """The sums of one number."""
    source = reader.formula(given["self"])
    if len(source.cases) != 1 or source.cases[0][1] not in (False, 0):
        raise Unread("sums of other numbers than 0")
    return _filled(0)(reader, node, given)


RULES: dict[Any, Rule] = {
    **{each.overloadpacket: moves.same_order for each in SAME_ORDER},
    **{each.overloadpacket: moves.conversion for each in CONVERSIONS},
    aten._reshape_copy: moves.same_order,
    aten.cat: moves.joined,
    aten.expand: lambda reader, node, given: reader.operand(given["self"], node.meta["val"].shape),
    aten.permute: moves.permute,
    aten.transpose: moves.transpose,
    aten.slice: moves.cut,
    aten.select: moves.select,
    aten.index: moves.index,
    aten.repeat_interleave: moves.repeated,
    torch.ops.higher_order.flat_apply: moves.looked_up,
    aten.arange: _arange,
    aten.full: _fill("fill_value"),
    aten.full_like: _fill("fill_value"),
    aten.new_full: _fill("fill_value"),
    aten.scalar_tensor: _fill("s"),
    **dict.fromkeys((aten.ones, aten.ones_like, aten.new_ones), _filled(1)),
    **dict.fromkeys((aten.zeros, aten.zeros_like, aten.new_zeros), _filled(0)),
    **dict.fromkeys((aten.logical_and, aten.bitwise_and, aten.__and__), _logical(sympy.And)),
    **dict.fromkeys((aten.logical_or, aten.bitwise_or, aten.__or__), _logical(sympy.Or)),
    **dict.fromkeys((aten.logical_not, aten.bitwise_not), _logical(sympy.Not)),
    aten.add: _arithmetic(lambda self, other, alpha, **_: self + alpha * other),
    aten.sub: _arithmetic(lambda self, other, alpha, **_: self - alpha * other),
    aten.rsub: _arithmetic(lambda self, other, alpha, **_: other - alpha * self),
    aten.neg: _arithmetic(lambda self, **_: -self),
    aten.mul: _binary(operator.mul),
    aten.floor_divide: _binary(_floored),
    aten.remainder: _binary(_remainder),
    aten.gt: _comparison(operator.gt),
    aten.ge: _comparison(operator.ge),
    aten.lt: _comparison(operator.lt),
    aten.le: _comparison(operator.le),
    aten.eq: _comparison(sympy.Eq),
    aten.ne: _comparison(sympy.Ne),
    aten.abs: _abs,
    aten.where: _where,
    aten.masked_fill: _masked_fill,
    aten.tril: _triangle(operator.le),
    aten.triu: _triangle(operator.ge),
    "_add_batch_dim": moves.enter_vmap,
    "_remove_batch_dim": moves.leave_vmap,
    aten.diff: _diff,
    aten.cumsum: _cumsum,
}
