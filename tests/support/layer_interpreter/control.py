"""Loops and conditionals: the layers at the boundary of a region of the network."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from layer_interpreter.table import Scope, require

Evaluate = Callable[[Iterable[str], Scope], None]

_LOOP_PARTS = ("TRIP_LIMIT", "RECURRENCE", "ITERATOR")


class Regions:
    """Which boundary layers belong to which loop or conditional."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._loops: dict[Any, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        self._conditions: dict[Any, str] = {}
        for node in nodes:
            if node.type in _LOOP_PARTS:
                self._loops[node.layer.loop.name][node.type].append(node)
            elif node.type == "CONDITION":
                self._conditions[node.layer.conditional.name] = node.names[0]

    def needs(self, node: Any, scope: Scope) -> list[str]:
        """The tensors that a layer needs; for a conditional, those of the chosen branch."""
        if node.type == "LOOP_OUTPUT":
            return [*node.names[1:], *self._needed_before(self._loops[node.layer.loop.name])]
        if node.type == "CONDITIONAL_OUTPUT":
            condition = self._conditions[node.layer.conditional.name]
            return [condition, node.names[0 if scope[condition] else 1]] if condition in scope else [condition]
        assert node.type not in ("RECURRENCE", "ITERATOR"), f"{node.name} is read outside its loop"
        return [name for name in node.names if name is not None]

    def _needed_before(self, loop: dict[str, list[Any]]) -> list[str]:
        counts = [node.names[0] for node in loop["TRIP_LIMIT"] if node.layer.kind.name == "COUNT"]
        return counts + [node.names[0] for part in ("RECURRENCE", "ITERATOR") for node in loop[part]]

    def run(self, node: Any, scope: Scope, evaluate: Evaluate) -> Tensor | None:
        """The value of a boundary layer; None for another layer."""
        if node.type == "CONDITIONAL_OUTPUT":
            return scope[self.needs(node, scope)[1]]
        if node.type == "CONDITIONAL_INPUT":
            return scope[node.names[0]]
        if node.type == "LOOP_OUTPUT":
            return self._loop(node, self._loops[node.layer.loop.name], scope, evaluate)
        return None

    def _loop(self, node: Any, loop: dict[str, list[Any]], scope: Scope, evaluate: Evaluate) -> Tensor:
        mode, inner = node.layer.kind.name, node.names[0]
        collected: list[Tensor] = []
        count = self._count(loop, scope)
        state = {each.outputs[0].name: scope[each.names[0]] for each in loop["RECURRENCE"]}
        step = 0
        while count is None or step < count:
            body = scope.new_child(state | self._elements(loop, scope, step, count))  # type: ignore[attr-defined]
            if not self._continues(loop, body, evaluate):
                break
            if mode != "LAST_VALUE":
                evaluate([inner], body)
                collected.append(body[inner])
            following = [each.names[1] for each in loop["RECURRENCE"]]
            evaluate(following, body)
            state = {each.outputs[0].name: body[name] for each, name in zip(loop["RECURRENCE"], following, strict=True)}
            step += 1
        if mode == "LAST_VALUE":
            return state[inner]
        length = int(scope[node.names[1]])
        require(length == len(collected) > 0, f"a loop of {len(collected)} steps, expected {length}")
        return torch.stack(collected if mode == "CONCATENATE" else collected[::-1], node.layer.axis)

    def _count(self, loop: dict[str, list[Any]], scope: Scope) -> int | None:
        counts = [int(scope[each.names[0]]) for each in loop["TRIP_LIMIT"] if each.layer.kind.name == "COUNT"]
        return min(counts) if counts else None

    def _continues(self, loop: dict[str, list[Any]], body: Scope, evaluate: Evaluate) -> bool:
        limits = [each.names[0] for each in loop["TRIP_LIMIT"] if each.layer.kind.name == "WHILE"]
        evaluate(limits, body)
        return all(bool(body[name]) for name in limits)

    def _elements(self, loop: dict[str, list[Any]], scope: Scope, step: int, count: int | None) -> dict[str, Tensor]:
        def index(iterator: Any) -> int:
            return (count or 0) - 1 - step if iterator.layer.reverse else step

        return {
            each.outputs[0].name: scope[each.names[0]].select(each.layer.axis, index(each)) for each in loop["ITERATOR"]
        }
