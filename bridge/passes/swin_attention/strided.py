"""Windows whose tokens are strided in a sequence, as Hiera's: token t of window w is at t W + w of [N, T W, C].

That is a map [N, T, W, C] with a window of T x 1. q, k and v are [N, H, W, T, D], heads before windows; there is no
bias by which these could be told apart, so their places in the projection tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Node

from bridge.passes.common.axes import Axes, follow, is_move, name_axes, sources
from bridge.passes.common.nodes import users_of
from bridge.passes.swin_attention.attention import Attention

_ORDERS = {"phd": False, "hpd": True}  # of the channels, as packing.py's


@dataclass(frozen=True)
class Strided:
    """base: [N, T W, 3 C], q, k and v. result: [N, T W, C]. heads, tokens, windows: their numbers."""

    base: Node
    result: Node
    head_major: bool
    heads: int
    tokens: int
    windows: int


def find_strided(attention: Attention, canonical: Mapping[Node, Node]) -> Strided | None:
    """The sequences that an attention within strided windows reads and makes; None for any other attention."""
    shape = attention.q.meta["val"].shape
    if len(shape) != 5 or attention.terms or not all(isinstance(extent, int) for extent in shape[1:]):
        return None
    extents = dict(zip("nhwtd", shape, strict=True)) | {"p": 3}
    result = _result(attention.root, extents)
    for order, head_major in _ORDERS.items():
        bases = [
            _base(node, order, place, extents) for place, node in enumerate((attention.q, attention.k, attention.v))
        ]
        if result is not None and bases[0] is not None and len({canonical.get(base, base) for base in bases}) == 1:  # type: ignore[arg-type]
            return Strided(bases[0], result, head_major and shape[1] > 1, shape[1], shape[3], shape[2])
    return None


def _base(node: Node, order: str, place: int, extents: Mapping[str, int]) -> Node | None:
    """[N, T W, 3 C] of which a node is q, k or v (0, 1 or 2), [N, H, W, T, D]; None where it is not."""
    chain = sources(node)
    for index, base in reversed(list(enumerate(chain))):
        axes = name_axes(["n", "tw", order], extents)
        if not axes.describes(base):
            continue
        moved = follow(axes, chain[:index][::-1])
        own = name_axes("nhwtd", extents)
        if moved is not None and not moved.ranges and dict(moved.picked) == {"p": place} and moved.groups == own.groups:
            return base
    return None


def _result(root: Node, extents: Mapping[str, int]) -> Node | None:
    """The view of an attention's result as [N, T W, C], where nothing else uses it before; None without one."""
    axes: Axes | None = name_axes("nhwtd", extents)
    expected, node = name_axes(["n", "tw", "hd"], extents), root
    while axes is not None:
        if axes.groups == expected.groups and axes.is_whole:
            return node
        users = users_of(node)
        if len(users) != 1 or not is_move(users[0]):
            return None
        (node,) = users
        axes = follow(axes, [node])
    return None
