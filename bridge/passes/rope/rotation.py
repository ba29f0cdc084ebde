"""What a rotated head is: the result's lanes, read as sums of products, against the rows of `PAIRINGS`."""

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
    """Which lanes of the input lane i of the result is made of, where R are rotated: `own` times the cosine and
    `partner` times the sine; the first of a pair has the negative sine.

    regrouped: the result has the first lanes of all pairs before the second ones, whatever the input has.
    """

    name: str
    interleaved: bool
    own: Callable[[int, int], int]
    partner: Callable[[int, int], int]
    is_first: Callable[[int, int], bool]
    regrouped: bool = False


def _is_in_first_half(i: int, r: int) -> bool:
    return i < r // 2


def _gathered(i: int, r: int) -> int:
    return 2 * (i % (r // 2)) + i // (r // 2)


PAIRINGS = (
    Pairing("half-split", False, lambda i, r: i, lambda i, r: (i + r // 2) % r, _is_in_first_half),
    Pairing("interleaved", True, lambda i, r: i, lambda i, r: i ^ 1, lambda i, r: i % 2 == 0),
    Pairing("interleaved, regrouped", True, _gathered, lambda i, r: _gathered(i, r) ^ 1, _is_in_first_half, True),
)


@dataclass(frozen=True)
class Rotation:
    """`root` is `x` rotated. rotary: the number of rotated lanes. backward: by the angles' negatives."""

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
        """What it is rotated by."""
        return self.cos, self.sin, self.rotary, self.pairing, self.backward

    def can_join(self, other: "Rotation") -> bool:
        """Whether one call can rotate both, going by what they are rotated by."""
        own, theirs = self.root.meta["val"], other.root.meta["val"]
        if self.angles != other.angles:
            return False
        if own.dtype != theirs.dtype or own.dim() != theirs.dim():
            return False
        heads = own.dim() - 4 + LAYOUTS[self.layout][0]
        return all(same_extents(own.shape[a : a + 1], theirs.shape[a : a + 1]) for a in range(own.dim()) if a != heads)


class Declined(Exception):
    """Why what looks like a rotation is none that bridge::rope computes."""


def find_rotation(reader: Reader, root: Node) -> Rotation | None:
    """The rotation that a node is the result of; None if it does not look like one. Declined, TableError: it does."""
    terms = reader.sum(Lane(root, (0,)))
    if len(terms) != 2 or any(len(product) != 2 for product in terms):
        return None
    reason: Exception | None = None
    for x in _inputs(reader, root):
        lanes = [reader.factor(Lane(x, (i,))) for i in range(root.meta["val"].shape[-1])]
        if all(factor.sign == 1 for factor in lanes):
            try:
                rotation = _read(reader, root, x, [factor.lane for factor in lanes], terms)
            except (Declined, TableError) as error:
                reason = reason or error
                continue
            if rotation is not None:
                return rotation
    if reason is not None:
        raise reason
    return None


def _inputs(reader: Reader, root: Node) -> list[Node]:
    """What a node may be a rotation of: the tensors of its shape that it is computed from, those of its dtype first."""
    wanted = root.meta["val"]
    shaped = [node for node in reader.seen - {root} if same_extents(node.meta["val"].shape, wanted.shape)]
    fitting = [node for node in shaped if torch.promote_types(node.meta["val"].dtype, wanted.dtype) == wanted.dtype]
    return sorted(sorted(fitting), key=lambda node: node.meta["val"].dtype != wanted.dtype)


def _read(reader: Reader, root: Node, x: Node, lanes: list[Lane], terms: Sum) -> Rotation | None:
    """The rotation of x, whose lanes these are. terms: of the first lane of the result."""
    places = {lane: i for i, lane in enumerate(lanes)}
    first = _by_lane(terms, places)
    rotary = _count_rotated(reader, root, lanes)
    fitting = [each for each in PAIRINGS if rotary >= 2 and first.keys() == {0, each.partner(0, rotary)}]
    if fitting and rotary % 2:
        raise Declined(f"{rotary} lanes are rotated, an odd number")
    reason: Exception | None = None
    for pairing in fitting:
        backward = first[pairing.partner(0, rotary)][1] > 0
        try:
            tables = _read_tables(reader, root, places, rotary, pairing, backward)
            return Rotation(root, x, *tables, rotary, pairing, backward)
        except (Declined, TableError) as error:
            reason = reason or error
    if reason is not None:
        raise reason
    return None


def _read_tables(
    reader: Reader, root: Node, places: Mapping[Lane, int], rotary: int, pairing: Pairing, backward: bool
) -> tuple[Table, Table]:
    """The cosines and sines, once every lane of the result is found to be what it should."""
    extents = root.meta["val"].shape
    if pairing.regrouped and rotary != extents[-1]:
        raise Declined(f"{rotary} of {extents[-1]} lanes are rotated and regrouped; only all of them are supported")
    cosines, sines = [], []
    for i in range(rotary):
        sign = -1 if pairing.is_first(i, rotary) != backward else 1
        own, partner = pairing.own(i, rotary), pairing.partner(i, rotary)
        cosine, sine = _split(reader.sum(Lane(root, (i,))), places, i, own, partner, sign)
        cosines.append(cosine)
        sines.append(sine)
    outer = (*[1] * (4 - len(extents)), *extents[:-1])
    cos, sin = (find_table(span, outer, reader.same) for span in _spans(reader, cosines, sines, pairing))
    if not _common_layouts(cos, sin):
        raise Declined("the tables of cosines and sines vary along different axes")
    return cos, sin


def _common_layouts(cos: Table, sin: Table) -> list[str]:
    return [layout for layout in cos.layouts if layout in sin.layouts]


def _count_rotated(reader: Reader, root: Node, lanes: Sequence[Lane]) -> int:
    """How many lanes are rotated before those that are the input's own. Declined: others follow."""
    kept = [reader.factor(Lane(root, (i,))) == (1, lane) for i, lane in enumerate(lanes)]
    rotary = kept.index(True) if True in kept else len(lanes)
    if not all(kept[rotary:]):
        raise Declined(f"lane {rotary + kept[rotary:].index(False)} is rotated, but lane {rotary} before it is not")
    return rotary


def _split(terms: Sum, places: Mapping[Lane, int], i: int, own: int, partner: int, sign: int) -> tuple[Lane, Lane]:
    """The cosine and the sine of lane i of the result. Declined: it is something else."""
    found = _by_lane(terms, places)
    if len(terms) != 2 or found.keys() != {own, partner}:
        used = " and ".join(map(str, sorted(found))) or "none"
        raise Declined(f"lane {i} is not made of lanes {own} and {partner}, but of {used}, in {len(terms)} terms")
    (cosine, own_sign), (sine, partner_sign) = found[own], found[partner]
    if (own_sign, partner_sign) != (1, sign):
        raise Declined(
            f"lane {i} is lane {own} times {own_sign:g} cos and lane {partner} times {partner_sign:g} sin; expected 1"
            f" and {sign}"
        )
    return cosine, sine


def _by_lane(terms: Sum, places: Mapping[Lane, int]) -> dict[int, tuple[Lane, float]]:
    """For each product of a lane of the input and another lane: which of the input's, the other, the coefficient."""
    found = {}
    for product, coefficient in terms.items():
        for lane, other in (product, product[::-1]) if len(product) == 2 else ():
            if lane in places:
                found[places[lane]] = (other, coefficient)
    return found


def _spans(reader: Reader, cosines: list[Lane], sines: list[Lane], pairing: Pairing) -> list[Span]:
    """The tables' lanes in the order of the op: one for each pair where both of a pair hold the same, else all."""
    rotary = len(cosines)
    firsts = [i for i in range(rotary) if pairing.is_first(i, rotary)]
    mates = {pairing.own(i, rotary): i for i in range(rotary)}
    pairs = [(i, mates[pairing.partner(i, rotary)]) for i in firsts]
    paired = all(reader.equal(lanes[i], lanes[mate]) for lanes in (cosines, sines) for i, mate in pairs)
    chosen = firsts if paired else [mates[place] for place in range(rotary)]
    spans = []
    for name, lanes in (("cosines", cosines), ("sines", sines)):
        span = span_of([lanes[i] for i in chosen])
        if span is None:
            raise Declined(f"its {name} do not stand side by side in one tensor in the order of the lanes")
        spans.append(span)
    return spans
