"""Recognises a rotated head: matches its lanes, as sums of products, against `PAIRINGS`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from bridge.passes.common.nodes import same_extents
from bridge.passes.rope.lanes import Lane
from bridge.passes.rope.sums import Reader, Sum
from bridge.passes.rope.tables import LAYOUTS, Span, Table, TableError, find_table, span_of


@dataclass(frozen=True)
class Pairing:
    """The input lanes of lane i of the result, for r rotated lanes: `own(i, r)` times the cosine and `partner(i, r)`
    times the sine, negated in the first lane of a pair.

    regrouped: the result has the first lanes of all pairs, then the second ones, in contrast to the input.
    """

    name: str
    interleaved: bool
    own: Callable[[int, int], int]
    partner: Callable[[int, int], int]
    is_first: Callable[[int, int], bool]
    regrouped: bool = False


def _is_in_first_half(i: int, r: int) -> bool:
    return i < r // 2


def _gathered_lane(i: int, r: int) -> int:
    return 2 * (i % (r // 2)) + i // (r // 2)


PAIRINGS = (
    Pairing("half-split", False, lambda i, r: i, lambda i, r: (i + r // 2) % r, _is_in_first_half),
    Pairing("interleaved", True, lambda i, r: i, lambda i, r: i ^ 1, lambda i, r: i % 2 == 0),
    Pairing(
        "interleaved, regrouped", True, _gathered_lane, lambda i, r: _gathered_lane(i, r) ^ 1, _is_in_first_half, True
    ),
)


@dataclass(frozen=True)
class Rotation:
    """A rotation of `x` with the result `root`. rotary: number of rotated lanes. backward: the angles are negated."""

    root: Node
    x: Node
    cos: Table
    sin: Table
    rotary: int
    pairing: Pairing
    backward: bool

    @property
    def layout(self) -> str:
        """The layout of bridge::rope."""
        return _common_layouts(self.cos, self.sin)[0]

    @property
    def angles(self) -> tuple[Any, ...]:
        """Everything that determines the rotation, apart from x."""
        return self.cos, self.sin, self.rotary, self.pairing, self.backward

    def can_join(self, other: "Rotation") -> bool:
        """Whether one call can compute both: equal angles, and shapes that differ in the number of heads only."""
        own, other_tensor = self.root.meta["val"], other.root.meta["val"]
        if self.angles != other.angles:
            return False
        if own.dtype != other_tensor.dtype or own.dim() != other_tensor.dim():
            return False
        heads = own.dim() - 4 + LAYOUTS[self.layout][0]
        return all(
            same_extents(own.shape[a : a + 1], other_tensor.shape[a : a + 1]) for a in range(own.dim()) if a != heads
        )


class Declined(Exception):
    """Why something like a rotation is not what bridge::rope computes."""


def find_rotation(reader: Reader, root: Node) -> Rotation | None:
    """The rotation that a node computes; None if it resembles none. Declined, TableError: it only resembles one."""
    terms = reader.sum(Lane(root, (0,)))
    if len(terms) != 2 or any(len(product) != 2 for product in terms):
        return None
    first_error: Exception | None = None
    for x in _inputs(reader, root):
        lanes = [reader.factor(Lane(x, (i,))) for i in range(root.meta["val"].shape[-1])]
        if all(factor.sign == 1 for factor in lanes):
            try:
                rotation = _match(reader, root, x, [factor.lane for factor in lanes], terms)
            except (Declined, TableError) as error:
                first_error = first_error or error
                continue
            if rotation is not None:
                return rotation
    if first_error is not None:
        raise first_error
    return None


def _inputs(reader: Reader, root: Node) -> list[Node]:
    """Candidates for x: the visited tensors of the root's shape, those of its dtype first."""
    result = root.meta["val"]
    same_shape = [node for node in reader.visited - {root} if same_extents(node.meta["val"].shape, result.shape)]
    candidates = [
        node for node in same_shape if torch.promote_types(node.meta["val"].dtype, result.dtype) == result.dtype
    ]
    return sorted(sorted(candidates), key=lambda node: node.meta["val"].dtype != result.dtype)


def _match(reader: Reader, root: Node, x: Node, lanes: list[Lane], terms: Sum) -> Rotation | None:
    """The rotation of x. lanes: those of x. terms: the sum in the first lane of the result."""
    lane_indices = {lane: i for i, lane in enumerate(lanes)}
    first = _by_lane(terms, lane_indices)
    rotary = _count_rotated(reader, root, lanes)
    candidates = [each for each in PAIRINGS if rotary >= 2 and first.keys() == {0, each.partner(0, rotary)}]
    if candidates and rotary % 2:
        raise Declined(f"{rotary} lanes are rotated, an odd number")
    first_error: Exception | None = None
    for pairing in candidates:
        backward = first[pairing.partner(0, rotary)][1] > 0
        try:
            tables = _read_tables(reader, root, lane_indices, rotary, pairing, backward)
            return Rotation(root, x, *tables, rotary, pairing, backward)
        except (Declined, TableError) as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error
    return None


def _read_tables(
    reader: Reader, root: Node, lane_indices: Mapping[Lane, int], rotary: int, pairing: Pairing, backward: bool
) -> tuple[Table, Table]:
    """The cosines and sines. Declined: a lane of the result does not match the pairing."""
    extents = root.meta["val"].shape
    if pairing.regrouped and rotary != extents[-1]:
        raise Declined(f"{rotary} of {extents[-1]} lanes are rotated and regrouped; only all of them are supported")
    cosines, sines = [], []
    for i in range(rotary):
        sign = -1 if pairing.is_first(i, rotary) != backward else 1
        own, partner = pairing.own(i, rotary), pairing.partner(i, rotary)
        cosine, sine = _split(reader.sum(Lane(root, (i,))), lane_indices, i, own, partner, sign)
        cosines.append(cosine)
        sines.append(sine)
    outer = (*[1] * (4 - len(extents)), *extents[:-1])
    cos, sin = (find_table(span, outer, reader.canonical) for span in _spans(reader, cosines, sines, pairing))
    if not _common_layouts(cos, sin):
        raise Declined("the tables of cosines and sines vary along different axes")
    return cos, sin


def _common_layouts(cos: Table, sin: Table) -> list[str]:
    return [layout for layout in cos.layouts if layout in sin.layouts]


def _count_rotated(reader: Reader, root: Node, lanes: Sequence[Lane]) -> int:
    """The number of rotated lanes, before those that are copied. Declined: they are not the first ones."""
    kept = [reader.factor(Lane(root, (i,))) == (1, lane) for i, lane in enumerate(lanes)]
    rotary = kept.index(True) if True in kept else len(lanes)
    if not all(kept[rotary:]):
        raise Declined(f"lane {rotary + kept[rotary:].index(False)} is rotated, but lane {rotary} before it is not")
    return rotary


def _split(
    terms: Sum, lane_indices: Mapping[Lane, int], i: int, own: int, partner: int, sign: int
) -> tuple[Lane, Lane]:
    """The cosine and the sine of lane i of the result. Declined: the sum has another form."""
    by_lane = _by_lane(terms, lane_indices)
    if len(terms) != 2 or by_lane.keys() != {own, partner}:
        used = " and ".join(map(str, sorted(by_lane))) or "none"
        raise Declined(f"lane {i} is not made of lanes {own} and {partner}, but of {used}, in {len(terms)} terms")
    (cosine, own_sign), (sine, partner_sign) = by_lane[own], by_lane[partner]
    if (own_sign, partner_sign) != (1, sign):
        raise Declined(
            f"lane {i} is lane {own} times {own_sign:g} cos and lane {partner} times {partner_sign:g} sin; expected 1"
            f" and {sign}"
        )
    return cosine, sine


def _by_lane(terms: Sum, lane_indices: Mapping[Lane, int]) -> dict[int, tuple[Lane, float]]:
    """For each product with a lane of the input: its index, the other lane, and the coefficient."""
    rows = {}
    for product, coefficient in terms.items():
        for lane, other in (product, product[::-1]) if len(product) == 2 else ():
            if lane in lane_indices:
                rows[lane_indices[lane]] = (other, coefficient)
    return rows


def _spans(reader: Reader, cosines: list[Lane], sines: list[Lane], pairing: Pairing) -> list[Span]:
    """The tables' lanes in the op's order: one per pair if both of each pair are equal, else all."""
    rotary = len(cosines)
    firsts = [i for i in range(rotary) if pairing.is_first(i, rotary)]
    lane_of = {pairing.own(i, rotary): i for i in range(rotary)}
    pairs = [(i, lane_of[pairing.partner(i, rotary)]) for i in firsts]
    paired = all(reader.equal(lanes[i], lanes[mate]) for lanes in (cosines, sines) for i, mate in pairs)
    chosen = firsts if paired else [lane_of[index] for index in range(rotary)]
    spans = []
    for name, lanes in (("cosines", cosines), ("sines", sines)):
        span = span_of([lanes[i] for i in chosen])
        if span is None:
            raise Declined(f"its {name} do not stand side by side in one tensor in the order of the lanes")
        spans.append(span)
    return spans
