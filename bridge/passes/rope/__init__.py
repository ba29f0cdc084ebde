"""Rotary embeddings, in any formulation, as bridge::rope.

A head is rotated where lane i of the result, along the last axis, is x[i] cos_i -+ x[p(i)] sin_i. The sign and the
partner p(i) are those of a row of `PAIRINGS` in rotation.py. Lanes after the rotated ones are copied from x. moves.py
traces lanes through slices, concatenations, stacks, views and complex numbers alike. Queries and keys with the same
tables become one call. A single tensor becomes a call with its first head in the place of the keys.

The tables keep the model's precision: values that it rounds to 16 bits stay rounded. Products and their sum are no
longer rounded separately, only the result.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import canonical_nodes, is_copy, mutated_nodes, value
from bridge.passes.common.outcome import MUTATED, Outcome, failure_text
from bridge.passes.rope.rotation import Declined, Rotation, find_rotation
from bridge.passes.rope.sums import Reader
from bridge.passes.rope.tables import LAYOUTS, SEQUENCE_FIRST, TableBuilder, TableError

NAME = "rope"
_MOST_LANES = 1024  # of a head
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces the rotations of a graph, in place."""
    mutated = mutated_nodes(graph)
    rotations, declined = _find_all(graph, mutated)
    editor = Editor(graph)
    builder = TableBuilder(editor)
    results: dict[Node, Node] = {}  # of rotations, which may be rotated again
    outcomes = [_try_to_replace(editor, builder, group, results) for group in _grouped(rotations, bool(mutated))]
    if rotations:
        editor.sort_topologically()
    return outcomes + [Outcome.at(node, NAME, False, reason) for node, reason in declined.items()]


def _find_all(graph: Graph, mutated: set[Node]) -> tuple[list[Rotation], dict[Node, str]]:
    """Every rotation, in graph order, and the reasons to decline near matches."""
    canonical = canonical_nodes(graph)
    rotations: list[Rotation] = []
    covered: set[Node] = set()  # nodes inside the rotations so far, which come later in the graph
    declined: dict[Node, str] = {}
    for root in reversed(list(graph.nodes)):
        if root in covered or not _may_be_rotated(root):
            continue
        reader = Reader(canonical, root.meta["val"].dtype)
        try:
            rotation = find_rotation(reader, root)
            if rotation is not None and reader.visited & mutated:
                raise Declined(MUTATED)
        except (Declined, TableError) as reason:
            declined[root] = str(reason)
            continue
        except Exception as error:  # an unforeseen graph must not end the compilation
            declined[root] = failure_text(error)
            continue
        if rotation is not None:
            rotations.insert(0, rotation)
            covered |= reader.visited - {rotation.x}
    declined = {node: reason for node, reason in declined.items() if node not in covered}
    return rotations, _outermost(declined, rotations)


def _outermost(declined: Mapping[Node, str], rotations: Sequence[Rotation]) -> dict[Node, str]:
    """The declined nodes, without those around a rotation or within another declined node."""
    roots = {rotation.root for rotation in rotations}
    kept: dict[Node, str] = {}
    hidden: set[Node] = set()
    for node, reason in declined.items():  # from the graph's end to its start
        near = _nearby(node)
        if node not in hidden and not near & roots:
            kept[node] = reason
        hidden |= near
    return dict(reversed(kept.items()))


def _nearby(node: Node, depth: int = 4) -> set[Node]:
    """A node and its transitive inputs, up to `depth` steps."""
    visited, edge = {node}, {node}
    for _ in range(depth):
        edge = {argument for each in edge for argument in each.all_input_nodes} - visited
        visited |= edge
    return visited


def _may_be_rotated(node: Node) -> bool:
    tensor = value(node)
    if node.op != "call_function" or is_copy(node):
        return False
    if tensor is None or tensor.dtype not in _DTYPES or tensor.dim() not in (3, 4):
        return False
    width = tensor.shape[-1]
    return isinstance(width, int) and 2 <= width <= _MOST_LANES


def _grouped(rotations: Sequence[Rotation], keep_order: bool) -> Iterator[list[Rotation]]:
    """Groups rotations for one call each: queries with keys where possible.

    keep_order: no user of the first rotation may move after an input of the second. In-place writes make the order of
    nodes significant.
    """
    left = list(rotations)
    while left:
        first = left.pop(0)
        second = next((other for other in left if first.can_join(other)), None)
        if second is None or _depends(second, first) or (keep_order and _breaks_order(second, first)):
            yield [first]
        else:
            left.remove(second)
            yield [first, second]


def _breaks_order(later: Rotation, earlier: Rotation) -> bool:
    """Whether a user of the earlier rotation precedes an input of the later one."""
    return any(user < needed for user in earlier.root.users for needed in (later.x, later.cos.span.node))


def _depends(later: Rotation, earlier: Rotation) -> bool:
    """Whether the later rotation is computed from the earlier one."""
    pending, visited = [later.x], set[Node]()
    while pending:
        node = pending.pop()
        if node is earlier.root:
            return True
        if node not in visited and earlier.root < node:
            visited.add(node)
            pending += node.all_input_nodes
    return False


def _try_to_replace(
    editor: Editor, builder: TableBuilder, group: Sequence[Rotation], results: dict[Node, Node]
) -> Outcome:
    try:
        return _replace(editor, builder, group, results)
    except (TableError, LayoutError) as reason:
        return Outcome.at(group[0].root, NAME, False, str(reason))
    except Exception as error:  # the op's own errors, among others
        return Outcome.failed(group[0].root, NAME, error)


def _replace(editor: Editor, builder: TableBuilder, group: Sequence[Rotation], results: dict[Node, Node]) -> Outcome:
    """Replaces one or two rotations by one call. results: maps replaced roots to the nodes that replace them.

    TableError, LayoutError: they cannot be replaced.
    """
    first = group[0]
    root, layout = first.root, first.layout
    dtype, rank, width = root.meta["val"].dtype, root.meta["val"].dim(), root.meta["val"].shape[-1]
    cos, sin = (builder.table(table, layout, dtype) for table in (first.cos, first.sin))
    sin = editor.call_once(torch.ops.aten.neg.default, (sin,), root) if first.backward else sin
    inputs = [_input(editor, rotation, results.get(rotation.x, rotation.x), dtype) for rotation in group]
    if layout == SEQUENCE_FIRST:
        inputs, layout = [_batch_first(editor, x, root) for x in inputs], "bshd"
    if len(inputs) == 1:
        inputs.append(editor.call_once(torch.ops.aten.slice.Tensor, (inputs[0], LAYOUTS[layout][0], 0, 1), root))
    rotary = 0 if first.rotary == width else first.rotary
    args = (*inputs, cos, sin, None, first.pairing.interleaved, rotary, layout)
    call = editor.call(OPS[NAME].overload, args, root)
    for index, rotation in enumerate(group):
        result = editor.item(call, index)
        if first.layout == SEQUENCE_FIRST:
            result = _batch_first(editor, result, root)
        if first.pairing.regrouped:
            result = _regroup(editor, result, width)
        if rank == 3:
            result = editor.call(torch.ops.aten.squeeze.dim, (result, 0), rotation.root)
        editor.replace(rotation.root, result)
        results[rotation.root] = result
    return Outcome.at(root, NAME, True, _outcome_text(first, len(group), width))


def _regroup(editor: Editor, x: Node, width: int) -> Node:
    """The first lanes of all pairs, then the second lanes."""
    parts = [editor.call(torch.ops.aten.slice.Tensor, (x, 3, start, width, 2), x) for start in (0, 1)]
    return editor.call(torch.ops.aten.cat.default, (parts, 3), x)


def _input(editor: Editor, rotation: Rotation, x: Node, dtype: torch.dtype) -> Node:
    """The input of a rotation with four dimensions, in the dtype of the result."""
    x = editor.cast(x, dtype)
    return x if x.meta["val"].dim() == 4 else editor.call_once(torch.ops.aten.unsqueeze.default, (x, 0), rotation.root)


def _batch_first(editor: Editor, x: Node, like: Node) -> Node:
    """With sequence and batch exchanged, or back."""
    return editor.call_once(torch.ops.aten.transpose.int, (x, 0, 1), like)


def _outcome_text(rotation: Rotation, count: int, width: int) -> str:
    what = "queries and keys" if count == 2 else "one tensor"
    part = f", {rotation.rotary} of {width} lanes" if rotation.rotary != width else ""
    return f"bridge.rope of {what}, {rotation.pairing.name}{part}, {rotation.layout}"


PASS = Pass(NAME, apply)
