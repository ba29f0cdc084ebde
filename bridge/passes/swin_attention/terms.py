"""What is added to logits: a relative position bias for heads, and masks for windows."""

from collections.abc import Iterator, Sequence

from torch.fx import Node

from bridge.passes.common.axes import Axes, Group, extent_of, follow, name_axes, sources
from bridge.passes.common.nodes import arguments, aten, same_extents, value
from bridge.passes.swin_attention.attention import Term
from bridge.passes.swin_attention.products import source

_OWN = "ABCDE"  # of the dimensions of what is added

# Of a tensor that is the bias of heads, or the masks of windows: its dimensions are viewed as [H, T, T], or [M, T, T],
# where window i has mask i modulo M.
Kind = str
BIAS, MASK = "bias", "mask"


def parts_of(term: Term) -> list[tuple[Kind, Node]] | None:
    """The tensors that a term is the sum of; None where one is neither a bias nor masks."""
    before = _expanded(term)
    if before is not None:
        return before
    kind = _kind(term, term.node)
    if kind is not None:
        return [(kind, term.node)]
    node = source(term.node)
    if node.target is aten.add.Tensor and arguments(node)["alpha"] == 1:
        found = [parts_of(Term(side, term.axes)) for side in node.args[:2] if isinstance(side, Node)]
        if len(found) == 2 and all(each is not None for each in found):
            return [part for each in found for part in each or ()]
    return None


def is_of_heads(term: Term) -> bool:
    """Whether a term is one number for each head."""
    dims = _dims(term.node, term.axes)
    kept = None if dims is None else [group for group, extent in dims if not _is_one(extent)]
    heads = term.axes.groups[-3]
    return kept == ([heads] if heads else [])


def _dims(node: Node, axes: Axes) -> list[tuple[Group, object]] | None:
    """Each dimension of logits and the node's extent there, 1 or the same; None where a node has others."""
    tensor = value(node)
    if tensor is None or tensor.dim() > len(axes.groups) or axes.picked or axes.ranges:
        return None
    shape = [1] * (len(axes.groups) - tensor.dim()) + list(tensor.shape)
    for group, extent in zip(axes.groups, shape, strict=True):
        if not _is_one(extent) and not same_extents([extent], [extent_of(group)]):
            return None
    return list(zip(axes.groups, shape, strict=True))


def _is_one(extent: object) -> bool:
    return isinstance(extent, int) and extent == 1


def _kind(term: Term, node: Node) -> Kind | None:
    """Whether a node that is broadcast is a bias, or masks; None where its extents are those of neither."""
    dims = _dims(node, term.axes)
    if dims is None or any(_is_one(extent) for _, extent in dims[-2:]):
        return None
    lead, (heads, of_heads) = dims[:-3], dims[-3]
    given = [not _is_one(extent) for group, extent in lead if group]
    if not any(given) and (not heads or not _is_one(of_heads)):
        return BIAS
    # The innermost dimensions of windows, all of them from one on.
    innermost = given == sorted(given)
    return MASK if innermost and (not heads or _is_one(of_heads)) else None


def _expanded(term: Term) -> list[tuple[Kind, Node]] | None:
    """Of a term that is expanded, and perhaps viewed: what it was before."""
    chain = sources(term.node, expands=True)
    if not any(node.target is aten.expand.default for node in chain):
        return None
    for index, base in reversed(list(enumerate(chain))):
        rank = base.meta["val"].dim()
        if not 2 <= rank <= len(_OWN):
            continue
        letters = _OWN[:rank]
        axes = name_axes(list(letters), dict(zip(letters, base.meta["val"].shape, strict=True)))
        moved = follow(axes, chain[:index][::-1])
        if moved is not None and moved.is_whole and _dims(term.node, term.axes) is not None:
            kind = _kind_of(moved.groups, axes.groups, term.axes)
            if kind is not None:
                return [(kind, base)]
    return None


def _kind_of(groups: Sequence[Group], own: Sequence[Group], logits: Axes) -> Kind | None:
    """groups: of the term's dimensions, axes of the base or expanded ones. own: of the base's dimensions."""
    groups = [()] * (len(logits.groups) - len(groups)) + list(groups)
    if list(groups[-2:]) != list(own[-2:]) or not all(own[-2:]):
        return None
    before = [axis for group in own[:-2] for axis in group]
    heads = _kept(groups[-3])
    lead = [axis for group in groups[:-3] for axis in group]
    if heads and heads == before and all(axis.is_expanded for axis in lead):
        return BIAS
    first = next((place for place, axis in enumerate(lead) if not axis.is_expanded), len(lead))
    return MASK if not heads and lead[first:] == before else None


def _kept(group: Group) -> list:
    return [axis for axis in group if not axis.is_expanded]


def nodes(parts: Sequence[tuple[Kind, Node]], kind: Kind) -> Iterator[Node]:
    """Those of a kind."""
    return (node for each, node in parts if each == kind)
