"""Where queries, keys and values lie: in one tensor of all three, or in one each."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Node

from bridge.passes.common.axes import Axes, Group, follow, name_axes, sources
from bridge.passes.common.nodes import same_extents
from bridge.passes.swin_attention.attention import Attention

_LETTERS = "klmno"  # of the dimensions before channels
# Channels of q, k and v in one tensor: the part p, the head h, the channel d of a head.
_ORDERS = {"phd": False, "hpd": True}


@dataclass(frozen=True)
class Packing:
    """Tensors [..., tokens..., channels]. tensors: one of q, k and v, or three. lead: dimensions before tokens."""

    tensors: tuple[Node, ...]
    head_major: bool
    lead: int


@dataclass(frozen=True)
class _Part:
    base: Node
    lead: int


def find_packing(attention: Attention, canonical: Mapping[Node, Node]) -> Packing | None:
    """What q, k and v are views of; None where one is none of [..., tokens..., channels]."""
    tensors = (attention.q, attention.k, attention.v)
    for order, head_major in _ORDERS.items():
        parts = [_part(node, attention, order, place) for place, node in enumerate(tensors)]
        found = [part for part in parts if part is not None]
        bases = {canonical.get(part.base, part.base) for part in found}
        if len(found) == 3 and len(bases) == 1 and len({part.lead for part in found}) == 1:
            return Packing((found[0].base,), head_major and attention.heads > 1, found[0].lead)
    separate = [_part(node, attention, "hd", None) for node in tensors]
    found = [part for part in separate if part is not None]
    shapes = [part.base.meta["val"].shape for part in found]
    same = all(same_extents(shape, shapes[0]) for shape in shapes)
    if len(found) == 3 and same and len({part.lead for part in found}) == 1:
        return Packing(tuple(part.base for part in found), False, found[0].lead)
    return None


def _part(node: Node, attention: Attention, order: str, place: int | None) -> _Part | None:
    """The tensor of channels in that order of which a node is q, k or v (0, 1 or 2), [..., H, T, D]."""
    extents = {"p": 3, "h": attention.heads, "d": attention.head_dim}
    channels = attention.heads * attention.head_dim * (1 if place is None else 3)
    chain = sources(node)
    for index, base in reversed(list(enumerate(chain))):
        shape = base.meta["val"].shape
        if not 2 <= len(shape) <= len(_LETTERS) + 1 or not isinstance(shape[-1], int) or shape[-1] != channels:
            continue
        letters = _LETTERS[: len(shape) - 1]
        axes = name_axes([*letters, order], extents | dict(zip(letters, shape[:-1], strict=True)))
        moved = follow(axes, chain[:index][::-1])
        picked = {} if place is None else {"p": place}
        if moved is not None and not moved.ranges and dict(moved.picked) == picked:
            lead = _lead(axes, moved, name_axes(["h", "d"], extents))
            if lead is not None:
                return _Part(base, lead)
    return None


def _lead(axes: Axes, moved: Axes, own: Axes) -> int | None:
    """How many dimensions of a base come before its tokens, where a view of it is [..., H, T, D]. own: of H and D."""
    *before, heads, tokens, channels = moved.groups
    if (heads, channels) != own.groups or not tokens:
        return None
    dims = list(axes.groups[:-1])
    for lead in range(len(dims)):
        if _flat(dims[lead:]) == tokens and _flat(dims[:lead]) == _flat(before):
            return lead
    return None


def _flat(groups: list[Group]) -> Group:
    return tuple(axis for group in groups for axis in group)
