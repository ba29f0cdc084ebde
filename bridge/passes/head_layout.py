"""bridge's attention and rotary embedding on heads behind tokens, [B, S, H, D], where that spares transposes.

Projections give tokens first; models then transpose queries, keys and values, and the result back. TensorRT runs such a
transpose as a copy. The ops take either layout: an attention whose inputs are transposes, or rotary embeddings of
transposes, is called on what was transposed. So is a rotary embedding between transposes.
"""

import operator
from collections.abc import Mapping
from typing import Any

from torch._ops import OpOverload
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import arguments, aten, before_copies, is_copy, mutated_nodes, transpose_of, value
from bridge.passes.common.outcome import MUTATED, Outcome

NAME = "head_layout"
_ATTENTION, _ROPE = (OPS[name].overload for name in ("window_attention", "rope"))
_SWAPPED = [0, 2, 1, 3]


class Declined(Exception):
    """Why an attention keeps its layout."""


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Changes the layout of such calls, in place."""
    mutated, heads = mutated_nodes(graph), _Heads(Editor(graph))

    def rewrite(node: Node) -> str | None:
        if node.target is _ROPE and not all(map(_is_transposed_back, node.users)):
            return None
        if node.target not in (_ATTENTION, _ROPE) or not heads.can_change(node):
            return None
        if mutated & heads.read(node):
            raise Declined(MUTATED)
        heads.change(node)
        return f'bridge.{node.target._schema.name.rpartition("::")[2]}, layout "bshd"'

    return rewrite_each(graph.nodes, rewrite, (Declined, LayoutError), NAME, heads.editor)


class _Heads:
    """Finds and makes the tensors with tokens first."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self._changed: dict[Node, Node] = {}  # calls with heads first, to those with tokens first

    def can_change(self, call: Node) -> bool:
        """Whether a call has heads first, and every operand is the transpose of a tensor that has tokens first."""
        given = arguments(call)
        return given["layout"] == "bhsd" and all(self._is_transpose(given[name]) for name in _operands(call))

    def _is_transpose(self, tensor: Any) -> bool:
        tensor = before_copies(tensor)
        rotation = _rotation(tensor)
        return _transposed(tensor) is not None or (rotation is not None and self.can_change(rotation))

    def read(self, call: Node) -> set[Node]:
        """The nodes that a call on tensors with tokens first no longer reads, or reads at another place."""
        found: set[Node] = set()
        for name in _operands(call):
            node = arguments(call)[name]
            while is_copy(node):
                found.add(node)
                node = node.args[0]
            rotation = _rotation(node)
            found |= {node} | (self.read(rotation) if rotation is not None else set())
        return found

    def change(self, call: Node) -> None:
        """Puts the call with tokens first in the place of an attention, or of a rotary embedding."""
        before = len(self._changed)
        self._on_tokens(call)
        for old, new in list(self._changed.items())[before:]:
            if value(old) is not None:  # and not the several results of a rotary embedding
                self._give(old, new)
        if not call.users:
            self.editor.graph.erase_node(call)

    def _give(self, old: Node, new: Node) -> None:
        """Gives the users of a tensor with heads first the new one, transposed back where they do not transpose it."""
        for user in _transposes_of(old):
            self.editor.replace(user, new)
        _erase_unused(old)
        if old.users:
            self.editor.replace(old, self.editor.call(aten.permute.default, (new, _SWAPPED), old))

    def _on_tokens(self, call: Node) -> Node:
        """The call on tensors with tokens first."""
        if call in self._changed:
            return self._changed[call]
        given = arguments(call)
        operands = {name: self._tokens_first(given[name]) for name in _operands(call)}
        changed = self.editor.call(_overload(call), (), call, _without_none({**given, **operands, "layout": "bshd"}))
        self._changed[call] = changed
        if call.target is _ROPE:
            for item in call.users:
                self._changed[item] = self.editor.item(changed, item.args[1])  # type: ignore[arg-type]
        return changed

    def _tokens_first(self, tensor: Node) -> Node:
        tensor = before_copies(tensor)
        source = _transposed(tensor)
        if source is not None:
            return source
        rotation = _rotation(tensor)
        assert rotation is not None
        self._on_tokens(rotation)
        return self._changed[tensor]


def _overload(call: Node) -> OpOverload:
    return _ATTENTION if call.target is _ATTENTION else _ROPE


def _operands(call: Node) -> tuple[str, ...]:
    """The names of the tensors that have heads."""
    return ("q", "k", "v") if call.target is _ATTENTION else ("q", "k")


def _transposes_of(tensor: Node) -> list[Node]:
    """The transposes of a tensor and of copies of it."""
    found = [user for user in tensor.users if _swaps(user)]
    return found + [each for user in tensor.users if is_copy(user) for each in _transposes_of(user)]


def _is_transposed_back(tensor: Node) -> bool:
    """Whether a tensor has users, and all are its transposes, perhaps of copies."""
    users = [user for user in tensor.users if not _swaps(user)]
    return bool(tensor.users) and all(is_copy(user) and _is_transposed_back(user) for user in users)


def _erase_unused(tensor: Node) -> None:
    """Erases the copies and transposes of a tensor that nothing uses."""
    for user in list(tensor.users):
        if _swaps(user) or is_copy(user):
            _erase_unused(user)
            if not user.users:
                user.graph.erase_node(user)


def _swaps(node: Any) -> bool:
    return _transposed(node) is not None


def _transposed(tensor: Any) -> Node | None:
    """What a tensor is the transpose of, along the middle two of four dimensions, or None."""
    node = transpose_of(tensor, 1, 2)
    return node if node is not None and node.meta["val"].dim() == 4 else None


def _rotation(tensor: Any) -> Node | None:
    """The rotary embedding whose result a tensor is, or None."""
    if isinstance(tensor, Node) and tensor.target is operator.getitem and tensor.args[0].target is _ROPE:  # type: ignore
        return tensor.args[0]  # type: ignore[return-value]
    return None


def _without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in given.items() if each is not None}


PASS = Pass(NAME, apply, rank=2)
