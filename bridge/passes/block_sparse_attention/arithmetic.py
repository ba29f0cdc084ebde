"""Masks of blocks that are no tensor, but arithmetic on the numbers of blocks: neighbourhoods, strides, first blocks.

A condition on queries i and keys j is one on blocks where it looks at floor(i / n) and floor(j / m) alone, or compares
i or j with a multiple of n or m. The mask of blocks is then what the condition says of the first query and the first
key of each block, and the graph computes it so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import sympy
import torch
from torch.fx import Node

from bridge.passes.block_sparse_attention.blocks import PIECE, WHOLE
from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import aten
from bridge.passes.window_attention.attention import Attention, Declined
from bridge.passes.window_attention.formulas import axis

_QUERY, _KEY = axis(2), axis(3)
_RELATIONS = {
    sympy.Eq: aten.eq.Scalar,
    sympy.Ne: aten.ne.Scalar,
    sympy.Gt: aten.gt.Scalar,
    sympy.Ge: aten.ge.Scalar,
    sympy.Lt: aten.lt.Scalar,
    sympy.Le: aten.le.Scalar,
}


@dataclass(frozen=True)
class BlockFormula:
    """A condition on blocks of queries and keys; the counterpart of Blocks."""

    condition: Any
    query_block: int
    key_block: int
    node = None

    def tensor(self, editor: Editor, attention: Attention) -> Node:
        """The mask, [1, 1, query blocks, key blocks]. Declined: an expression has no operators."""
        return _Writer(editor, attention, self).mask()


def block_formula(condition: Any) -> tuple[BlockFormula, Any] | None:
    """The parts of a condition that are on blocks, and what has to hold besides; None without such parts."""
    parts = condition.args if isinstance(condition, sympy.And) else (condition,)
    sizes = [_sizes(part) for part in parts]
    chosen = [(part, each) for part, each in zip(parts, sizes, strict=True) if each is not None]
    if not chosen:
        return None
    query_block, key_block = (math.gcd(*(each[side] for _, each in chosen)) or WHOLE for side in (0, 1))
    if key_block == WHOLE or key_block % PIECE:
        return None
    on_blocks = sympy.And(*(part for part, _ in chosen))
    rest = sympy.And(*(part for part, each in zip(parts, sizes, strict=True) if each is None))
    return BlockFormula(on_blocks, query_block, key_block), rest


def _sizes(part: Any) -> tuple[int, int] | None:
    """Queries and keys of blocks that a condition is on, 0 where it is on none of them; None for other conditions."""
    if not part.free_symbols <= {_QUERY, _KEY} or part.atoms(sympy.core.function.AppliedUndef):
        return None
    found = [_size(part, index) for index in (_QUERY, _KEY)]
    if None in found or found[1] == 0:
        return None
    return found[0], found[1]  # type: ignore[return-value]


def _size(part: Any, index: Any) -> int | None:
    """Of blocks along an index: the common divisor of what it is divided by, and of the numbers it is compared with."""
    divisors: list[int] = []
    quotients = [each for each in part.atoms(sympy.floor) if (each.args[0] / index).is_Rational]
    for each in quotients:
        factor = each.args[0] / index
        if factor.p != 1:
            return None
        divisors.append(int(factor.q))
    rest = part.xreplace({each: sympy.Dummy(integer=True) for each in quotients})
    for comparison in rest.atoms(sympy.core.relational.Relational):
        if not comparison.has(index):
            continue
        turn = _turn(comparison, index)
        if turn is None:
            return None
        divisors.append(turn)
    return math.gcd(*divisors)


def _turn(comparison: Any, index: Any) -> int | None:
    """The number n of a comparison that says index < n, or index >= n; None for other comparisons."""
    difference = (comparison.lhs - comparison.rhs).expand()
    slope = difference.coeff(index, 1)
    rest = (difference - slope * index).expand()
    if not isinstance(comparison, (sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le)) or not slope.is_Rational or slope == 0:
        return None
    if not rest.is_Rational:
        return None
    turn = -rest / slope
    from_turn_on = isinstance(comparison, (sympy.Ge, sympy.Lt)) == (slope > 0)
    return int(sympy.ceiling(turn)) if from_turn_on else int(sympy.floor(turn)) + 1


class _Writer:
    """Tensors broadcast to [query blocks, key blocks]."""

    def __init__(self, editor: Editor, attention: Attention, blocks: BlockFormula) -> None:
        self.editor, self.like, self.condition = editor, attention.root, blocks.condition
        self.device = attention.q.meta["val"].device
        extents = (editor.extents(each, 3)[2] for each in (attention.q, attention.k))
        first_query, first_key = (
            self.firsts(extent, size)
            for extent, size in zip(extents, (blocks.query_block, blocks.key_block), strict=True)
        )
        self.indices = {_QUERY: self.call(aten.unsqueeze.default, first_query, 1), _KEY: first_key}

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.editor.call_once(target, args, self.like, kwargs)

    def firsts(self, extent: Any, size: int) -> Node:
        """The first position of each block."""
        positions = self.call(aten.arange.default, extent, dtype=torch.int64, device=self.device)
        return self.call(aten.slice.Tensor, positions, 0, 0, torch.iinfo(torch.int64).max, size)

    def mask(self) -> Node:
        mask = self.boolean(self.condition)
        for each in self.indices.values():  # of a condition on the blocks of keys alone
            mask = self.call(aten.logical_and.default, mask, self.call(aten.ge.Scalar, each, 0))
        for _ in range(2):
            mask = self.call(aten.unsqueeze.default, mask, 0)
        return mask

    def boolean(self, condition: Any) -> Node:
        if isinstance(condition, (sympy.And, sympy.Or)):
            combine = aten.logical_and.default if isinstance(condition, sympy.And) else aten.logical_or.default
            parts = [self.boolean(each) for each in sorted(condition.args, key=str)]
            return reduce(lambda a, b: self.call(combine, a, b), parts)
        if isinstance(condition, sympy.Not):
            return self.call(aten.logical_not.default, self.boolean(condition.args[0]))
        relation = _RELATIONS.get(condition.func)
        if relation is None:
            raise Declined(f"its blocks are those of {condition}")
        terms, constant = _whole(condition.lhs - condition.rhs)
        return self.call(relation, self.sum(terms), -constant)

    def sum(self, terms: Sequence[tuple[int, Any]]) -> Node:
        scaled = [self.call(aten.mul.Tensor, self.term(term), factor) for factor, term in terms]
        return reduce(lambda a, b: self.call(aten.add.Tensor, a, b), scaled)

    def term(self, term: Any) -> Node:
        if term in self.indices:
            return self.indices[term]
        if isinstance(term, sympy.floor):
            size = math.lcm(*(factor.q for factor in _factors(term.args[0])))
            terms, constant = _whole(size * term.args[0])
            inner = self.call(aten.add.Tensor, self.sum(terms), constant)
            return self.call(aten.floor_divide.default, inner, size)
        raise Declined(f"its blocks depend on {term}")


def _factors(expression: Any) -> list[Any]:
    factors = [each.as_coeff_Mul()[0] for each in sympy.Add.make_args(expression.expand())]
    if not all(factor.is_Rational for factor in factors):
        raise Declined(f"its blocks depend on {expression}")
    return factors


def _whole(expression: Any) -> tuple[list[tuple[int, Any]], int]:
    """Terms of a sum with their factors, and its constant, all multiplied by what makes them whole numbers."""
    expanded = expression.expand()
    expanded = (expanded * math.lcm(*(factor.q for factor in _factors(expanded)))).expand()
    constant, rest = expanded.as_coeff_Add()
    terms = [each.as_coeff_Mul() for each in sympy.Add.make_args(rest) if each != 0]
    return [(int(factor), term) for factor, term in sorted(terms, key=str)], int(constant)
