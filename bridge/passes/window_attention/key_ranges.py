"""Writes the expressions of an interval's bounds into a graph, as the tensor `key_ranges` [B or 1, S or 1, 2]."""

from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch.fx import Node

from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import aten
from bridge.passes.window_attention.attention import Attention, Declined
from bridge.passes.window_attention.formulas import axis, expression, is_one
from bridge.passes.window_attention.interval import Interval

_ROWS = {axis(0): 0, axis(2): 1}  # the dimensions of the bounds, by index of the logits
_LAST = 1 << 30  # after every key


def key_ranges(editor: Editor, attention: Attention, interval: Interval, unknown: Mapping[str, Node]) -> Node:
    """The bounds as a tensor. unknown: the nodes behind unknown functions. Declined: an expression has no operators."""
    writer = _Writer(editor, attention, unknown)
    begin = writer.extreme(interval.begins, aten.maximum.default, 0)
    end = writer.extreme(interval.ends, aten.minimum.default, _LAST)
    return writer.joined(begin, end)


class _Writer:
    """Tensors are [B or 1, S or 1], int64."""

    def __init__(self, editor: Editor, attention: Attention, unknown: Mapping[str, Node]) -> None:
        self.editor, self.like, self.unknown = editor, attention.root, unknown
        q = attention.q
        extents = editor.extents(q, 3)
        self.device = q.meta["val"].device
        self.extents = {axis(0): extents[0], axis(2): extents[2]}
        sizes = [(q, 0, extents[0]), (q, 2, extents[2]), (attention.k, 2, editor.extents(attention.k, 3)[2])]
        self.symbols = {expression(node.meta["val"].shape[dim]): size for node, dim, size in sizes}

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.editor.call_once(target, args, self.like, kwargs)

    def extreme(self, bounds: tuple[Any, ...], combine: Any, otherwise: int) -> Node:
        """The largest or smallest of bounds; a number where there is none."""
        tensors = [self.tensor(bound) for bound in bounds] or [self.filled(otherwise)]
        for other in tensors[1:]:
            tensors[0] = self.call(combine, tensors[0], other)
        return tensors[0]

    def joined(self, begin: Node, end: Node) -> Node:
        """[B or 1, S or 1, 2]"""
        shapes = [each.meta["val"].shape for each in (begin, end)]
        extents = [
            1 if is_one(shapes[0][dim]) and is_one(shapes[1][dim]) else self.extents[index]
            for index, dim in _ROWS.items()
        ]
        pair = [
            self.call(aten.unsqueeze.default, self.call(aten.expand.default, each, extents), -1)
            for each in (begin, end)
        ]
        return self.call(aten.cat.default, pair, -1)

    def filled(self, number: int) -> Node:
        return self.call(aten.full.default, [1, 1], number, dtype=torch.int64, device=self.device)

    def tensor(self, bound: Any) -> Node:
        """An expression as a tensor."""
        if bound.is_Integer:
            return self.filled(int(bound))
        if isinstance(bound, sympy.Add):
            first, *rest = sorted(bound.args, key=lambda term: (bool(term.is_Integer), str(term)))
            total = self.tensor(first)
            for term in rest:
                total = self.call(aten.add.Tensor, total, int(term) if term.is_Integer else self.tensor(term))
            return total
        factor, term = bound.as_coeff_Mul()
        if factor != 1 and factor.is_Integer:
            return self.call(aten.mul.Tensor, self.tensor(term), int(factor))
        return self.term(bound)

    def term(self, term: Any) -> Node:
        """An index, an extent, a quotient or an element of a tensor."""
        if term in _ROWS:
            numbers = self.call(aten.arange.default, self.extents[term], dtype=torch.int64, device=self.device)
            return self.call(aten.unsqueeze.default, numbers, 1 - _ROWS[term])
        if term in self.symbols:
            return self.call(aten.mul.Tensor, self.filled(1), self.symbols[term])
        if isinstance(term, sympy.floor):
            size = sympy.fraction(sympy.together(term.args[0]))[1]
            if size.is_Integer:
                return self.call(aten.floor_divide.default, self.tensor((size * term.args[0]).expand()), int(size))
        if isinstance(term, sympy.core.function.AppliedUndef):
            return self.element(term)
        raise Declined(f"its interval of keys depends on {term}")

    def element(self, term: Any) -> Node:
        """An element of a tensor that the graph computes, at the indices of sequence and query."""
        node = self.unknown[term.func.__name__]
        if node.graph is not self.editor.graph:
            raise Declined(f"its interval of keys depends on {term}, which its mask_mod computes")
        kept = [index for index in term.args if index in _ROWS]
        if kept != sorted(set(kept), key=str) or not all(index in _ROWS or index.is_Integer for index in term.args):
            raise Declined(f"its interval of keys depends on {term}")
        for dim in reversed(range(len(term.args))):
            if term.args[dim].is_Integer:
                node = self.call(aten.select.int, node, dim, int(term.args[dim]))
        shape = [self.extents[index] if index in kept else 1 for index in _ROWS]
        return self.call(aten.reshape.default, self.editor.cast(node, torch.int64), shape)
