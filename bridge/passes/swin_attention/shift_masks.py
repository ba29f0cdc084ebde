"""Masks that are constants: whether they are what bridge.swin_attention adds by itself for a shift."""

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from bridge.ops.swin_attention import tokens_apart
from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import aten, value
from bridge.passes.common.outcome import MUTATED
from bridge.passes.swin_attention.attention import Declined

_MOST = 1 << 27  # elements of what is computed
# Of these the first argument says the dtype alone.
_LIKE = {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default}


class MaskValues:
    """Values of nodes that depend on constants alone, of any size. Declined: one is written to in place."""

    def __init__(self, constants: Constants, mutated: Set[Node]) -> None:
        self._constants = constants
        self._mutated = mutated
        self._known: dict[Node, Tensor | None] = {}

    def value(self, node: Node) -> Tensor | None:
        """The value of a node; None where it depends on an input."""
        pending = [node]
        while pending:
            each = pending[-1]
            if each in self._known:
                pending.pop()
                continue
            missing = [argument for argument in self._arguments(each) if argument not in self._known]
            if missing:
                pending += missing
            else:
                self._known[pending.pop()] = self._compute(each)
        return self._known[node]

    def _arguments(self, node: Node) -> list[Node]:
        if node.op != "call_function" or not _is_pure(node):
            return []
        return [each for each in node.all_input_nodes if not (node.target in _LIKE and each is node.args[0])]

    def _compute(self, node: Node) -> Tensor | None:
        if node in self._mutated and node.op == "call_function":
            raise Declined(MUTATED)
        traced = value(node)
        if node.op != "call_function":
            return self._constants.held(node)
        if traced is None or not all(isinstance(extent, int) for extent in traced.shape):
            return None
        if not _is_pure(node) or traced.numel() > _MOST:
            return None
        values: dict[Node, Any] = {each: self._known[each] for each in self._arguments(node)}
        if any(each is None for each in values.values()):
            return None
        args, kwargs = torch.fx.map_arg(
            (node.args, node.kwargs), lambda each: values.get(each, torch.empty(0, dtype=each.meta["val"].dtype))
        )
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return result if isinstance(result, Tensor) else None


def _is_pure(node: Node) -> bool:
    target = node.target
    if not isinstance(target, OpOverload) or target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags


def shift_mask(masks: list[Tensor], size: Any, window: tuple[int, int], shift: tuple[int, int]) -> float | None:
    """The number by which the sum of masks [..., T, T] hides tokens on different sides of a shift; None for others.

    size: H and W of the map.
    """
    if not all(isinstance(extent, int) for extent in size):
        return None
    tokens = window[0] * window[1]
    total = sum(mask.double().cpu().reshape(-1, tokens, tokens) for mask in masks)
    apart = tokens_apart(size, window, shift, "cpu")
    if not isinstance(total, Tensor) or total.shape != apart.shape or not apart.any():
        return None
    number = total[apart][0]
    return float(number) if torch.equal(total, torch.where(apart, number, 0.0)) else None
