"""Attention in a graph: softmax(scale q kᵀ + terms) v, written out or as one node, perhaps of unit vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.passes.common.axes import Axes, follow, is_move, name_axes
from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import arguments, aten, is_traced, same_extents, users_of, value
from bridge.passes.swin_attention import products

SDPA = aten.scaled_dot_product_attention.default
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_LETTERS = "uvw"  # of the dimensions before heads


class Declined(Exception):
    """Why attention with a bias is not replaced."""


@dataclass(frozen=True)
class Term:
    """A tensor that is added to logits. axes: of the logits there, u, v, w, h, t and s."""

    node: Node
    axes: Axes


@dataclass(frozen=True)
class Attention:
    """Attention of heads.

    root: its result, [..., H, T, D]. q, k, v: of the same shape. axes: of its logits, [..., H, T, T]. scale: None for
    1 / sqrt(D). factors: of the cosines, a node of any shape; None for dot products. problem: why the op does not
    compute it.
    """

    root: Node
    q: Node
    k: Node
    v: Node
    axes: Axes
    terms: tuple[Term, ...]
    scale: float | None
    factors: Term | None = None
    problem: str = ""

    @property
    def heads(self) -> int:
        """Their number."""
        return self.q.meta["val"].shape[-3]

    @property
    def tokens(self) -> int:
        """Of a window."""
        return self.q.meta["val"].shape[-2]

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.q.meta["val"].shape[-1]


@dataclass(frozen=True)
class _Step:
    """A sum of logits, a view of them or of weights, or their softmax. before: its argument. added: of a sum, the other
    one."""

    node: Node
    before: Any
    added: Node | None = None


def find_attention(node: Node, constants: Constants) -> Attention | None:
    """The attention that a node computes, or whose softmax it is; None for any other node."""
    if node.target is SDPA:
        return _fused(node)
    if node.target in _SOFTMAX and is_traced(node):
        return _written_out(node, constants)
    return None


def _fused(node: Node) -> Attention | None:
    given = arguments(node)
    mask, scale = given["attn_mask"], given["scale"]
    plain = given["dropout_p"] == 0 and given["is_causal"] is False and not given.get("enable_gqa", False)
    if not plain or (mask is not None and (value(mask) is None or not mask.meta["val"].dtype.is_floating_point)):
        return None
    tensors, added = (given["query"], given["key"], given["value"]), [] if mask is None else [mask]
    axes = _axes_of_logits(*tensors)
    _check_known(given["query"], added)
    if axes is None or not (scale is None or (isinstance(scale, (int, float)) and scale != 0)):
        return None
    return Attention(node, *tensors, axes, tuple(Term(each, axes) for each in added), scale)


def _axes_of_logits(q: Any, k: Any, v: Any) -> Axes | None:
    """Of [..., H, T, T]; None unless q, k and v have one shape, of which heads, tokens and channels are known."""
    tensors = [value(each) for each in (q, k, v)]
    if any(each is None for each in tensors):
        return None
    shape = q.meta["val"].shape
    lead = len(shape) - 3
    if not 1 <= lead <= len(_LETTERS) or not all(isinstance(extent, int) for extent in shape[lead:]):
        return None
    same = all(same_extents(each.shape, shape) for each in tensors if each is not None)
    if not same or shape[-2] < 2:
        return None
    letters = _LETTERS[:lead]
    extents = dict(zip(letters, shape[:lead], strict=True)) | {"h": shape[-3], "t": shape[-2], "s": shape[-2]}
    return name_axes([*letters, "h", "t", "s"], extents)


def _check_known(q: Any, added: Sequence[Any]) -> None:
    """Declined: a bias for each head is added, [..., H, T, T], and T of q, [..., H, T, D], is not known."""
    tensor = value(q)
    if tensor is None or tensor.dim() < 3 or isinstance(tensor.shape[-2], int):
        return
    for node in added:
        bias = value(node)
        if bias is None or bias.dim() < 3 or not all(isinstance(extent, int) for extent in bias.shape[-3:]):
            continue
        heads, queries, keys = bias.shape[-3:]
        if queries == keys > 1 and same_extents([heads], tensor.shape[-3:-2]):
            raise Declined(
                f"a bias of {queries} tokens is added, but torch does not know that its windows have as many; dynamic "
                "heights and widths must be multiples of a window, as in 28 * torch.export.Dim(...)"
            )


def _written_out(softmax: Node, constants: Constants) -> Attention | None:
    given = arguments(softmax)
    if given["dim"] not in (-1, softmax.meta["val"].dim() - 1):
        return None
    steps, node = _steps_back(given["self"])
    product, scale = products.without_scale(node, constants)
    q_and_k, factors = products.of_keys(product), None
    if q_and_k is None:
        product, q_and_k, scale, factors = _scaled_by_tensor(product, scale, constants)
    values = _product_with_values(softmax)
    if q_and_k is None or values is None:
        return None
    (q, by_q), (k, by_k) = (products.without_scale(each, constants) for each in q_and_k)
    root, path, v = values
    axes = _axes_of_logits(q, k, v)
    _check_known(q, [step.added for step in steps])
    terms = None if axes is None or not axes.describes(product) else _terms(axes, [*steps, *path])
    if axes is None or terms is None:
        return None
    return _of_vectors(root, (q, k, v), axes, terms, scale * by_q * by_k, factors)


def _scaled_by_tensor(node: Any, scale: float, constants: Constants) -> tuple[Any, Any, float, Node | None]:
    """Of a product of queries with keys that is multiplied by a tensor: it, both, all numbers, and the tensor."""
    for side, other in products.factors_of(node):
        product, number = products.without_scale(side, constants)
        q_and_k = products.of_keys(product)
        if q_and_k is not None:
            return product, q_and_k, scale * number, other
    return node, None, scale, None


def _of_vectors(
    root: Node, tensors: tuple[Node, Node, Node], axes: Axes, terms: Sequence[Term], scale: float, factors: Node | None
) -> Attention:
    """Attention of dot products, or of cosines."""
    q, k, v = tensors
    if factors is None:
        return Attention(root, q, k, v, axes, tuple(terms), scale)
    unit_q, unit_k = products.without_norm(q), products.without_norm(k)
    if unit_q is None or unit_k is None or scale != 1.0:
        problem = "its logits are multiplied by a tensor, and are not of queries and keys divided by their lengths"
        return Attention(root, q, k, v, axes, tuple(terms), None, None, problem)
    return Attention(root, unit_q, unit_k, v, axes, tuple(terms), None, Term(factors, axes))


def _steps_back(node: Any) -> tuple[list[_Step], Node]:
    """The sums and views between a product and a softmax, in the graph's order, and the product."""
    steps: list[_Step] = []
    while True:
        node = products.source(node)
        step = _step(node)
        if step is None:
            return steps[::-1], node
        steps.append(step)
        node = step.before


def _step(node: Any) -> _Step | None:
    """A sum or a view of what a product leads to; None for another node."""
    if not isinstance(node, Node):
        return None
    if node.target is aten.add.Tensor and arguments(node)["alpha"] == 1:
        for side, other in (node.args[:2], node.args[1::-1]):
            if isinstance(side, Node) and isinstance(other, Node) and _has_product(side):
                return _Step(node, side, other)
        return None
    return _Step(node, node.args[0]) if is_move(node) and _has_product(node.args[0]) else None


def _has_product(node: Any, depth: int = 12) -> bool:
    while isinstance(node, Node) and depth:
        if node.target in (aten.matmul.default, aten.einsum.default):
            return products.of_keys(node) is not None
        node, depth = (node.args[0] if node.args else None), depth - 1
    return False


def _terms(axes: Axes, steps: Sequence[_Step]) -> list[Term] | None:
    """What is added on the way; None where the logits at the softmax, or the weights, are in another order."""
    terms, now = [], axes
    for step in steps:
        if step.added is not None:
            if not now.describes(step.node):
                return None
            terms.append(Term(step.added, now))
        elif step.node.target in _SOFTMAX:
            if now.groups[-2:] != axes.groups[-2:]:
                return None
        else:
            moved = follow(now, [step.node])
            if moved is None:
                return None
            now = moved
    same = now.groups[-3:] == axes.groups[-3:] and now.is_whole and now.in_order == axes.in_order
    return terms if same else None


def _product_with_values(softmax: Node) -> tuple[Node, list[_Step], Node] | None:
    """The product of the weights with the values, the softmax and the views before it, and the values.

    None if there is none, or if something else uses the weights.
    """
    node, path = softmax, [_Step(softmax, softmax)]
    while True:
        users = users_of(node)
        if len(users) != 1:
            return None
        (user,) = users
        product = products.of_values(user)
        if product is not None:
            return (user, path, product[1]) if product[0] is node else None
        if products.source(user) is user:
            if not is_move(user):
                return None
            path.append(_Step(user, node))
        node = user
