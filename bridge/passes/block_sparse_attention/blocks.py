"""Blocks in the condition of a mask, and the tensor that names them as bridge.block_sparse_attention takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.passes.common.constants import Constants
from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import aten
from bridge.passes.window_attention.attention import Attention, Declined
from bridge.passes.window_attention.formulas import axis

WHOLE = 1 << 30
"""One block of all queries."""
PIECE = 16
"""Keys: blocks of other sizes are not for tensor cores."""
_BATCH, _HEAD, _QUERY, _KEY = range(4)
# Of blocks in a mask of pairs; one of a single query is worth it, too.
_SIZES = {_QUERY: (128, 64, 32, 16, 8, 4, 2, 1), _KEY: (128, 64, 32, 16)}


@dataclass(frozen=True)
class Blocks:
    """A tensor with an element for each block.

    node: the tensor. indices: of its element for a pair, by dimension: a number, or (dimension of the logits, how many
    of them share an index). hides: whether a block is visible where the element is 0. dense: the tensor has an element
    for each pair, of which those of a block are equal.
    """

    node: Node
    indices: tuple[Any, ...]
    hides: bool
    dense: bool = False

    @property
    def query_block(self) -> int:
        """Queries of a block."""
        return self._sizes.get(_QUERY, WHOLE)

    @property
    def key_block(self) -> int:
        """Keys of a block."""
        return self._sizes[_KEY]

    @property
    def _sizes(self) -> dict[int, int]:
        return dict(each for each in self.indices if isinstance(each, tuple))

    def tensor(self, editor: Editor, attention: Attention) -> Node:
        """The mask, [B or 1, M, query blocks, key blocks]. Declined: it has other extents."""
        node = self.node

        def call(target: Any, *args: Any) -> Node:
            return editor.call_once(target, args, attention.root)

        for dim, index in enumerate(self.indices):
            if self.dense and isinstance(index, tuple) and index[1] > 1:
                node = call(aten.slice.Tensor, node, dim, 0, torch.iinfo(torch.int64).max, index[1])
        for dim in reversed(range(len(self.indices))):
            if not isinstance(self.indices[dim], tuple):
                node = call(aten.select.int, node, dim, self.indices[dim])
        for dim, (of_logits, size) in enumerate(each for each in self.indices if isinstance(each, tuple)):
            if self._is_longer(node.meta["val"].shape[dim], attention.logits[of_logits], size):
                node = call(aten.slice.Tensor, node, dim, 0, -(-attention.logits[of_logits] // size))
        for of_logits in range(4):
            if of_logits not in self._sizes:
                node = call(aten.unsqueeze.default, node, of_logits)
        if self.hides:
            return call(aten.eq.Scalar, node, 0)
        return node if node.meta["val"].dtype in (torch.bool, torch.int32) else call(aten.ne.Scalar, node, 0)

    def _is_longer(self, extent: Any, positions: Any, size: int) -> bool:
        """Whether the tensor has more blocks than there are positions for."""
        needed = (positions + size - 1) // size
        if statically_known_true(extent == needed):
            return False
        if isinstance(extent, int) and isinstance(needed, int) and extent > needed:
            return True
        raise Declined(f"its mask has {extent} blocks of {size}, for {positions} positions")


def split(condition: Any, unknown: Mapping[str, Node], constants: Constants) -> tuple[Blocks, Any] | None:
    """The blocks of a condition on the indices of logits, and what has to hold besides; None where it has none.

    unknown: the tensors behind unknown functions.
    """
    parts = condition.args if isinstance(condition, sympy.And) else (condition,)
    for part in parts:
        blocks = _blocks_of(part, unknown, constants)
        if blocks is not None:
            return blocks, sympy.And(*(each for each in parts if each is not part))
    return None


def _blocks_of(part: Any, unknown: Mapping[str, Node], constants: Constants) -> Blocks | None:
    """Of a comparison of an element with 0."""
    if not isinstance(part, (sympy.Ne, sympy.Eq)) or part.rhs != 0:
        return None
    element = part.lhs
    if not isinstance(element, sympy.core.function.AppliedUndef):
        return None
    node, indices = unknown.get(element.func.__name__), tuple(map(_index, element.args))
    if node is None or None in indices or len(indices) != node.meta["val"].dim():
        return None
    kept = [each for each in indices if isinstance(each, tuple)]
    in_order = [of_logits for of_logits, _ in kept]
    if in_order != sorted(set(in_order)) or _KEY not in in_order:
        return None
    sizes: dict[int, int] = dict(kept)
    if sizes.get(_BATCH, 1) != 1:
        return None
    hides = isinstance(part, sympy.Eq)
    if sizes[_KEY] == 1 and (held := constants.held(node)) is not None:
        return _of_dense(Blocks(node, indices, hides, True), held)
    return None if sizes[_KEY] % PIECE else Blocks(node, indices, hides)


def _of_dense(blocks: Blocks, held: Tensor) -> Blocks | None:
    """A mask of pairs that a model holds, as the largest blocks whose pairs are equal; None without such."""
    found = []
    for dim, index in enumerate(blocks.indices):
        if isinstance(index, tuple) and index[0] in _SIZES and index[1] == 1:
            size = next((size for size in _SIZES[index[0]] if _is_of_blocks(held != 0, dim, size)), None)
            if size is None:
                return None
            index = (index[0], size)
        found.append(index)
    return replace(blocks, indices=tuple(found))


def _is_of_blocks(mask: Tensor, dim: int, size: int) -> bool:
    """Whether elements of each block along a dimension are equal."""
    first = torch.arange(mask.shape[dim], device=mask.device) // size * size
    return bool((mask.index_select(dim, first) == mask).all())


def _index(index: Any) -> Any:
    """As in Blocks.indices; None for others."""
    if index.is_Integer:
        return int(index)
    source, size = index, 1
    if isinstance(index, sympy.floor):
        factor, source = index.args[0].as_coeff_Mul()
        if not factor.is_Rational or factor.p != 1:
            return None
        size = int(factor.q)
    places = [dim for dim in range(4) if source == axis(dim)]
    return (places[0], size) if places else None
