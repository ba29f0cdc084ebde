"""Rotary embeddings, however they are written, as bridge::rope.

A head is rotated where lane i of the result, along the last axis, is x[i] cos_i -+ x[p(i)] sin_i, with the sign and
the partner p(i) of a row of `PAIRINGS` in rotation.py, and the lanes past the rotated ones are those of x. moves.py
reads that off slices, concatenations, stacks, views or complex numbers alike. Queries and keys that are rotated by the
same tables become one call; one of them alone is called with its first head for the other.

The tables stay as the model has them: what it rounds to 16 bits stays rounded. The products and their sum are no longer
rounded one by one, only the result.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import canonical, is_copy, value, written
from bridge.passes.common.outcome import WRITTEN, Outcome, describe_failure
from bridge.passes.rope.rotation import Declined, Rotation, find_rotation
from bridge.passes.rope.sums import Reader
from bridge.passes.rope.tables import LAYOUTS, Placer, TableError

NAME = "rope"
_MOST_LANES = 1024  # of a head
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces the rotations of a graph, in place."""
    touched = written(graph)
    rotations, declined = _find_all(graph, touched)
    editor = Editor(graph)
    placer = Placer(editor)
    results: dict[Node, Node] = {}  # of rotations, which may be rotated again
    outcomes = [_try_to_replace(editor, placer, group, results) for group in _join(rotations, bool(touched))]
    if rotations:
        editor.sort()
    return outcomes + [Outcome.at(node, NAME, False, reason) for node, reason in declined.items()]


def _find_all(graph: Graph, touched: set[Node]) -> tuple[list[Rotation], dict[Node, str]]:
    """Every rotation, in the graph's order, and why other nodes are none although they look like it."""
    same = canonical(graph)
    rotations_found: list[Rotation] = []
    covered: set[Node] = set()  # by the rotations rotations_found so far, which lie behind
    declined: dict[Node, str] = {}
    for root in reversed(list(graph.nodes)):
        if root in covered or not _may_be_rotated(root):
            continue
        reader = Reader(same, root.meta["val"].dtype)
        try:
            rotation = find_rotation(reader, root)
            if rotation is not None and reader.seen & touched:
                raise Declined(WRITTEN)
        except (Declined, TableError) as reason:
            declined[root] = str(reason)
            continue
        except Exception as error:  # code of a kind that nobody thought of must not end the compile
            declined[root] = describe_failure(error)
            continue
        if rotation is not None:
            rotations_found.insert(0, rotation)
            covered |= reader.seen - {rotation.x}
    return rotations_found, _outermost(
        {node: why for node, why in declined.items() if node not in covered}, rotations_found
    )


def _outermost(declined: Mapping[Node, str], rotations: Sequence[Rotation]) -> dict[Node, str]:
    """Without what lies around a rotation that was rotations, or within another that was declined."""
    roots = {rotation.root for rotation in rotations}
    kept: dict[Node, str] = {}
    hidden: set[Node] = set()
    for node, reason in declined.items():  # from the graph's end to its start
        near = _near(node)
        if node not in hidden and not near & roots:
            kept[node] = reason
        hidden |= near
    return dict(reversed(kept.items()))


def _near(node: Node, depth: int = 4) -> set[Node]:
    """A node and those that it is computed from in a few steps."""
    seen, edge = {node}, {node}
    for _ in range(depth):
        edge = {argument for each in edge for argument in each.all_input_nodes} - seen
        seen |= edge
    return seen


def _may_be_rotated(node: Node) -> bool:
    tensor = value(node)
    if node.op != "call_function" or is_copy(node):
        return False
    if tensor is None or tensor.dtype not in _DTYPES or tensor.dim() not in (3, 4):
        return False
    width = tensor.shape[-1]
    return isinstance(width, int) and 2 <= width <= _MOST_LANES


def _join(rotations: Sequence[Rotation], keep_order: bool) -> Iterator[list[Rotation]]:
    """Queries with keys: neighbours in the graph that one call can rotate.

    keep_order: whether what uses the first must not move behind what the second needs: where something is written in
    place, the order of nodes tells what others read.
    """
    left = list(rotations)
    while left:
        first = left.pop(0)
        second = next((other for other in left if first.can_join(other)), None)
        if second is None or _depends(second, first) or (keep_order and _is_late(second, first)):
            yield [first]
        else:
            left.remove(second)
            yield [first, second]


def _is_late(later: Rotation, earlier: Rotation) -> bool:
    """Whether something uses a rotation before there is what another one needs."""
    return any(user < needed for user in earlier.root.users for needed in (later.x, later.cos.span.node))


def _depends(later: Rotation, earlier: Rotation) -> bool:
    """Whether a rotation can only be computed after another one."""
    pending, seen = [later.x], set[Node]()
    while pending:
        node = pending.pop()
        if node is earlier.root:
            return True
        if node not in seen and earlier.root < node:
            seen.add(node)
            pending += node.all_input_nodes
    return False


def _try_to_replace(editor: Editor, placer: Placer, group: Sequence[Rotation], results: dict[Node, Node]) -> Outcome:
    try:
        return _replace(editor, placer, group, results)
    except (TableError, LayoutError) as reason:
        return Outcome.at(group[0].root, NAME, False, str(reason))
    except Exception as error:  # what the op refuses, among others
        return Outcome.failed(group[0].root, NAME, error)


def _replace(editor: Editor, placer: Placer, group: Sequence[Rotation], results: dict[Node, Node]) -> Outcome:
    """Puts one call in the place of one rotation or two. results: for what was replaced, what stands in its place.

    TableError, LayoutError: it cannot.
    """
    first = group[0]
    root, layout = first.root, first.layout
    dtype, rank, width = root.meta["val"].dtype, root.meta["val"].dim(), root.meta["val"].shape[-1]
    cos, sin = (placer.table(table, layout, dtype) for table in (first.cos, first.sin))
    sin = editor.once(torch.ops.aten.neg.default, (sin,), root) if first.backward else sin
    inputs = [_input(editor, rotation, results.get(rotation.x, rotation.x), dtype) for rotation in group]
    if len(inputs) == 1:
        inputs.append(editor.once(torch.ops.aten.slice.Tensor, (inputs[0], LAYOUTS[layout][0], 0, 1), root))
    rotary = 0 if first.rotary == width else first.rotary
    args = (*inputs, cos, sin, None, first.pairing.interleaved, rotary, layout)
    call = editor.call(OPS[NAME].overload, args, root)
    for index, rotation in enumerate(group):
        result = editor.item(call, index)
        if first.pairing.regrouped:
            result = _regroup(editor, result, width)
        if rank == 3:
            result = editor.call(torch.ops.aten.squeeze.dim, (result, 0), rotation.root)
        editor.replace(rotation.root, result)
        results[rotation.root] = result
    return Outcome.at(root, NAME, True, _outcome_text(first, len(group), width))


def _regroup(editor: Editor, x: Node, width: int) -> Node:
    """The first lanes of all pairs, then the second ones."""
    parts = [editor.call(torch.ops.aten.slice.Tensor, (x, 3, start, width, 2), x) for start in (0, 1)]
    return editor.call(torch.ops.aten.cat.default, (parts, 3), x)


def _input(editor: Editor, rotation: Rotation, x: Node, dtype: torch.dtype) -> Node:
    """What is rotated, with four dimensions, in the dtype of the result."""
    x = editor.cast(x, dtype)
    return x if x.meta["val"].dim() == 4 else editor.once(torch.ops.aten.unsqueeze.default, (x, 0), rotation.root)


def _outcome_text(rotation: Rotation, count: int, width: int) -> str:
    what = "queries and keys" if count == 2 else "one tensor"
    part = f", {rotation.rotary} of {width} lanes" if rotation.rotary != width else ""
    return f"bridge.rope of {what}, {rotation.pairing.name}{part}, {rotation.layout}"


PASS = Pass(NAME, apply)
