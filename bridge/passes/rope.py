"""Rotary embeddings, however they are written, as bridge::rope.

A head is rotated where lane i of the result, along the last axis, is x[i] cos_i -+ x[p(i)] sin_i, with the sign and the
partner p(i) of a row of `PAIRINGS`, and the lanes past the rotated ones are those of x. `bridge.passes.lanes` reads that
off slices, concatenations, stacks, views or complex numbers alike. Queries and keys that are rotated by the same tables
become one call; one of them alone is called with its first head for the other.

The tables stay as the model has them: what it rounds to 16 bits stays rounded. The products and their sum are no longer
rounded one by one, only the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from bridge.op import OPS
from bridge.passes.graph import Editor, canonical, same_extents, value, written
from bridge.passes.lanes import Lane, flat, outer
from bridge.passes.outcome import Outcome
from bridge.passes.sums import Product, Reader, Sum
from bridge.passes.tables import LAYOUTS, Placer, Span, Table, TableError, find_table, span_of

NAME = "rope"
_MOST_LANES = 1024  # of a head
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Pairing:
    """Which lanes are rotated together. partner, is_first: of lane i, of R rotated ones; the first of a pair has the
    negative sine."""

    name: str
    interleaved: bool
    partner: Callable[[int, int], int]
    is_first: Callable[[int, int], bool]


PAIRINGS = (
    Pairing("half-split", False, lambda i, r: (i + r // 2) % r, lambda i, r: i < r // 2),
    Pairing("interleaved", True, lambda i, r: i ^ 1, lambda i, r: i % 2 == 0),
)


@dataclass(frozen=True)
class Rotation:
    """`root` is `x` rotated. rotary: the number of rotated lanes."""

    root: Node
    x: Span
    cos: Table
    sin: Table
    rotary: int
    pairing: Pairing

    @property
    def layout(self) -> str:
        """The layout of bridge::rope."""
        return _common_layouts(self.cos, self.sin)[0]

    def can_join(self, other: "Rotation") -> bool:
        """Whether one call can rotate both, going by what they are rotated by."""
        own, theirs = self.root.meta["val"], other.root.meta["val"]
        if (self.cos, self.sin, self.rotary, self.pairing) != (other.cos, other.sin, other.rotary, other.pairing):
            return False
        if own.dtype != theirs.dtype or own.dim() != theirs.dim():
            return False
        heads = own.dim() - 4 + LAYOUTS[self.layout][0]
        return all(same_extents(own.shape[a : a + 1], theirs.shape[a : a + 1]) for a in range(own.dim()) if a != heads)


class Declined(Exception):
    """Why what looks like a rotation is none that bridge::rope computes."""


def apply(graph: Graph) -> list[Outcome]:
    """Replaces the rotations of a graph, in place."""
    rotations, declined = _find_all(graph)
    editor = Editor(graph)
    placer = Placer(editor)
    outcomes = [_replace(editor, placer, group) for group in _join(rotations)]
    if rotations:
        editor.sort()
    return outcomes + [Outcome.at(node, NAME, False, reason) for node, reason in declined.items()]


def _find_all(graph: Graph) -> tuple[list[Rotation], dict[Node, str]]:
    """Every rotation, in the graph's order, and why other nodes are none although they look like it."""
    same, touched = canonical(graph), written(graph)
    found: list[Rotation] = []
    covered: set[Node] = set()  # by the rotations found so far, which lie behind
    declined: dict[Node, str] = {}
    for root in reversed(list(graph.nodes)):
        if root in covered or not _may_be_rotated(root):
            continue
        reader = Reader(same, root.meta["val"].dtype)
        try:
            rotation = _find(reader, root)
            if rotation is not None and reader.seen & touched:
                raise Declined("the model writes in place to a tensor that it is computed from")
        except (Declined, TableError) as reason:
            declined[root] = str(reason)
            continue
        if rotation is not None:
            found.insert(0, rotation)
            covered |= reader.seen
    return found, _outermost({node: why for node, why in declined.items() if node not in covered}, found)


def _outermost(declined: Mapping[Node, str], found: Sequence[Rotation]) -> dict[Node, str]:
    """Without what lies around a rotation that was found, or within another that was declined."""
    roots = {rotation.root for rotation in found}
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
    if node.op != "call_function" or tensor is None or tensor.dtype not in _DTYPES or tensor.dim() not in (3, 4):
        return False
    width = tensor.shape[-1]
    return isinstance(width, int) and 2 <= width <= _MOST_LANES


def _find(reader: Reader, root: Node) -> Rotation | None:
    """The rotation that a node is the result of; None if it does not look like one. Declined, TableError: it does."""
    reason: Exception | None = None
    for own, partner in _starts(reader, root):
        try:
            return _read(reader, root, own, partner)
        except (Declined, TableError) as error:
            reason = reason or error
    if reason is not None:
        raise reason
    return None


def _starts(reader: Reader, root: Node) -> Iterator[tuple[Lane, Lane]]:
    """What the first lane may be rotated from: two lanes of one tensor, each in a product of its own."""
    products = list(reader.sum(Lane(root, (0,))))
    if len(products) != 2 or any(len(product) != 2 for product in products):
        return
    for a in products[0]:
        for b in products[1]:
            if a.node is b.node and a.index != b.index and not a.node.meta["val"].is_complex():
                if same_extents(outer(a), root.meta["val"].shape[:-1]):
                    yield (a, b) if flat(a) < flat(b) else (b, a)


def _read(reader: Reader, root: Node, own: Lane, partner: Lane) -> Rotation:
    x, start, distance = own.node, flat(own), flat(partner) - flat(own)
    axes, width = len(own.index), root.meta["val"].shape[-1]
    rotary = _count_rotated(reader, root, own)
    pairing = PAIRINGS[1] if distance == 1 and rotary != 2 else PAIRINGS[0]
    if rotary % 2 or (not pairing.interleaved and rotary != 2 * distance):
        raise Declined(f"{rotary} of {width} lanes are rotated, with a partner {distance} apart: no pairs")
    cosines, sines = [], []
    for i in range(rotary):
        p = pairing.partner(i, rotary)
        sign = -1 if pairing.is_first(i, rotary) else 1
        cosine, sine = _split(reader.sum(Lane(root, (i,))), x, start, i, p, sign)
        cosines.append(cosine)
        sines.append(sine)
    outer_extents = (*[1] * (4 - root.meta["val"].dim()), *root.meta["val"].shape[:-1])
    cos, sin = (find_table(span, outer_extents) for span in _spans(cosines, sines, pairing))
    if not _common_layouts(cos, sin):
        raise Declined("the tables of cosines and sines vary along different axes")
    if torch.promote_types(x.meta["val"].dtype, root.meta["val"].dtype) != root.meta["val"].dtype:
        raise Declined(f"its input is {x.meta['val'].dtype}, and its result {root.meta['val'].dtype}")
    return Rotation(root, Span(x, axes, start, width), cos, sin, rotary, pairing)


def _common_layouts(cos: Table, sin: Table) -> list[str]:
    return [layout for layout in cos.layouts if layout in sin.layouts]


def _count_rotated(reader: Reader, root: Node, own: Lane) -> int:
    """How many lanes are rotated before those that are the input's own. Declined: others follow."""
    width = root.meta["val"].shape[-1]
    kept = [_is_kept(reader, Lane(root, (i,)), own.node, flat(own) + i) for i in range(width)]
    rotary = kept.index(True) if True in kept else width
    if not all(kept[rotary:]):
        raise Declined(f"lane {rotary + kept[rotary:].index(False)} is rotated, but lane {rotary} before it is not")
    return rotary


def _is_kept(reader: Reader, lane: Lane, x: Node, place: int) -> bool:
    factor = reader.factor(lane)
    return factor.sign == 1 and factor.lane.node is x and flat(factor.lane) == place


def _split(terms: Sum, x: Node, start: int, i: int, p: int, sign: int) -> tuple[Lane, Lane]:
    """The cosine and the sine of lane i, whose partner is p. Declined: it is something else."""
    by_place = dict(_by_lane_of_x(terms, x, start))
    if len(terms) != 2 or by_place.keys() != {i, p}:
        raise Declined(f"lane {i} is not the sum of lanes {i} and {p}, each times a factor, but of {len(terms)} terms")
    (cosine, own_sign), (sine, partner_sign) = by_place[i], by_place[p]
    if (own_sign, partner_sign) != (1, sign):
        raise Declined(
            f"lane {i} has lane {i} times {own_sign:g} and lane {p} times {partner_sign:g}; expected 1 and {sign}"
        )
    return cosine, sine


def _by_lane_of_x(terms: Sum, x: Node, start: int) -> Iterator[tuple[int, tuple[Lane, float]]]:
    """For each product of a lane of x and another lane: which of x's, the other one, and the coefficient."""
    for product, coefficient in terms.items():
        places = [place for place, lane in enumerate(product) if lane.node is x]
        if len(product) == 2 and len(places) == 1:
            yield flat(product[places[0]]) - start, (product[1 - places[0]], coefficient)


def _spans(cosines: list[Lane], sines: list[Lane], pairing: Pairing) -> list[Span]:
    """The tables' lanes, one for each pair where both of a pair have the same, else one for each lane."""
    rotary = len(cosines)
    paired = all(lanes[i] == lanes[pairing.partner(i, rotary)] for lanes in (cosines, sines) for i in range(rotary))
    chosen = [i for i in range(rotary) if not paired or pairing.is_first(i, rotary)]
    spans = []
    for name, lanes in (("cosines", cosines), ("sines", sines)):
        span = span_of([lanes[i] for i in chosen])
        if span is None:
            raise Declined(f"its {name} do not stand side by side in one tensor in the order of the lanes")
        spans.append(span)
    return spans


def _join(rotations: Sequence[Rotation]) -> Iterator[list[Rotation]]:
    """Queries with keys: neighbours in the graph that one call can rotate."""
    left = list(rotations)
    while left:
        first = left.pop(0)
        second = next((other for other in left if first.can_join(other)), None)
        if second is None or _depends(second, first):
            yield [first]
        else:
            left.remove(second)
            yield [first, second]


def _depends(later: Rotation, earlier: Rotation) -> bool:
    """Whether a rotation can only be computed after another one."""
    pending, seen = [later.x.node], set()
    while pending:
        node = pending.pop()
        if node is earlier.root:
            return True
        if node not in seen and earlier.root < node:
            seen.add(node)
            pending += node.all_input_nodes
    return False


def _replace(editor: Editor, placer: Placer, group: Sequence[Rotation]) -> Outcome:
    """Puts one call in the place of one rotation or two."""
    first = group[0]
    root, layout = first.root, first.layout
    dtype, rank, width = root.meta["val"].dtype, root.meta["val"].dim(), root.meta["val"].shape[-1]
    try:
        tables = [placer.table(table, layout, dtype) for table in (first.cos, first.sin)]
        inputs = [_input(placer, rotation, dtype) for rotation in group]
    except TableError as reason:
        return Outcome.at(root, NAME, False, str(reason))
    if len(inputs) == 1:
        inputs.append(placer.call(torch.ops.aten.slice.Tensor, (inputs[0], LAYOUTS[layout][0], 0, 1), root))
    rotary = 0 if first.rotary == width else first.rotary
    args = (*inputs, *tables, None, first.pairing.interleaved, rotary, layout)
    values = tuple(node.meta["val"] for node in inputs)
    call = editor.call(OPS[NAME].overload, args, root, result=values)
    for index, rotation in enumerate(group):
        result = editor.item(call, index)
        if rank == 3:
            result = editor.call(torch.ops.aten.squeeze.dim, (result, 0), rotation.root)
        rotation.root.replace_all_uses_with(result)
    return Outcome.at(root, NAME, True, _describe(first, len(group), width))


def _input(placer: Placer, rotation: Rotation, dtype: torch.dtype) -> Node:
    """What is rotated, with four dimensions, in the dtype of the result."""
    x = placer.cast(placer.span(rotation.x, rotation.root), dtype)
    return x if x.meta["val"].dim() == 4 else placer.call(torch.ops.aten.unsqueeze.default, (x, 0), rotation.root)


def _describe(rotation: Rotation, count: int, width: int) -> str:
    what = "queries and keys" if count == 2 else "one tensor"
    part = f", {rotation.rotary} of {width} lanes" if rotation.rotary != width else ""
    return f"bridge.rope of {what}, {rotation.pairing.name}{part}, {rotation.layout}"
