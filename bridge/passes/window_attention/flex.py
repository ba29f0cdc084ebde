"""FlexAttention, torch's higher-order operator, whose mask_mod and score_mod are graphs of one element each.

Its mask is what mask_mod says, as PyTorch computes it without torch.compile. The tensors of a BlockMask only say which
blocks of it are worth a look. They must not come from inputs; those that a model holds are compared with the window.
"""

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch.fx import Graph, Node

from bridge.passes.common.constants import Constants
from bridge.passes.window_attention.attention import Attention, Declined
from bridge.passes.window_attention.band import UNLIMITED, Window
from bridge.passes.window_attention.formulas import Unread, axis, constant
from bridge.passes.window_attention.reader import Reader
from bridge.passes.window_attention.written_out import without_cap

FLEX = torch.ops.higher_order.flex_attention
NO_BLOCKS = 1 << 30  # the block size of attention without a BlockMask
BLOCK_TENSORS = slice(2, 10)  # of a BlockMask's tuple: counts and indices of blocks, by queries and by keys
SIZES = slice(10, 12)
# What mask_mod is called with. They are no index of a tensor in its graph.
_INDICES = [sympy.Symbol(name, integer=True, nonnegative=True) for name in ("batch", "head", "query", "key")]


def find_flex(node: Node, constants: Constants) -> Attention | None:
    """The attention that a call of the operator computes. Declined: score_mod is more than a soft cap."""
    q, k, v, score_mod, _, scale = node.args[:6]
    root = next((user for user in node.users if user.args[1:] == (0,)), None)
    if root is None or any(user.users for user in node.users if user is not root):
        return None
    graph = _graph_of(node, score_mod)
    (score, *_), (result,) = graph.find_nodes(op="placeholder"), graph.output_node().args
    logits, cap = without_cap(result, Constants()) if isinstance(result, Node) else (result, 0.0)
    if logits is not score:
        raise Declined("its score_mod is more than a soft cap of the logits")
    return Attention(root, q, k, v, node, (), float(scale), cap)  # type: ignore[arg-type]


def shown(reader: Reader, node: Node) -> Any:
    """The condition under which mask_mod shows a key: on the indices of logits [B, H, S, T]."""
    blocks: Any = node.args[4]
    graph = _graph_of(node, blocks[-1])
    captured: Sequence[Any] = node.args[8] if len(node.args) > 8 else ()  # type: ignore[assignment]
    given = [constant((), torch.int64, index) for index in _INDICES]
    given += [reader.formula(each) for each in captured]
    (result,) = graph.output_node().args
    if not isinstance(result, Node):
        raise Unread("mask_mod returns no tensor")
    known = dict(zip(graph.find_nodes(op="placeholder"), given, strict=True))
    condition = reader.within(known, _INDICES).formula(result).condition
    return condition.xreplace({index: axis(dim) for dim, index in enumerate(_INDICES)})


def check_blocks(node: Node, window: Window, constants: Constants) -> None:
    """Declined: the tensors of the BlockMask may hide keys of the window."""
    blocks: Any = node.args[4]
    sizes = blocks[SIZES]
    if sizes == (NO_BLOCKS, NO_BLOCKS):
        return
    if window.left == UNLIMITED and window.right == UNLIMITED:
        raise Declined("its mask_mod shows all keys, and its blocks perhaps fewer")
    tensors = [each for each in blocks[BLOCK_TENSORS] if isinstance(each, Node)]
    if any(_depends_on_inputs(each, constants) for each in tensors):
        raise Declined("the blocks of its mask depend on inputs")
    held = [constants.held(each) if isinstance(each, Node) else None for each in blocks[BLOCK_TENSORS]][:4]
    if held[0] is not None and held[1] is not None and not _agree(held, sizes, window, node):
        raise Declined("the blocks of its mask are not those of its mask_mod")


def _graph_of(node: Node, attribute: Any) -> Graph:
    module = node.graph.owning_module
    return getattr(module, attribute.target).graph


def _depends_on_inputs(node: Node, constants: Constants) -> bool:
    """Whether a tensor depends on more of the inputs than their extents."""
    pending, seen = [node], set[Node]()
    while pending:
        each = pending.pop()
        if each in seen or not isinstance(each.meta.get("val"), torch.Tensor):
            continue
        seen.add(each)
        if each.op == "placeholder" and constants.held(each) is None:
            return True
        pending += each.all_input_nodes
    return False


def _agree(held: Sequence[Any], sizes: Sequence[int], window: Window, node: Node) -> bool:
    """Whether the blocks are those of a window: all of it is listed, and blocks listed as full are within it."""
    queries, keys = (node.args[which].meta["val"].shape[2] for which in (0, 1))  # type: ignore[union-attr]
    if not isinstance(queries, int) or not isinstance(keys, int):
        return False
    distance = torch.arange(keys) - torch.arange(keys - queries, keys)[:, None]
    seen = (distance >= -window.left) | (window.left == UNLIMITED)
    seen &= (distance <= window.right) | (window.right == UNLIMITED)
    full = listed_elements(held[2], held[3], queries, keys, sizes)
    looked_at = full | listed_elements(held[0], held[1], queries, keys, sizes)
    return bool((looked_at | ~seen).all()) and bool((seen | ~full).all())


def listed_elements(counts: Any, indices: Any, queries: int, keys: int, sizes: Sequence[int]) -> Any:
    """[B, H, S, T], the elements in listed blocks, of counts [B, H, query blocks] and indices [..., key blocks]."""
    if counts is None:
        return torch.zeros(1, 1, queries, keys, dtype=torch.bool)
    listed = torch.arange(indices.shape[-1]) < counts[..., None]
    blocks = torch.zeros_like(listed).scatter_add(-1, indices.long(), listed)
    whole = blocks.repeat_interleave(sizes[0], -2).repeat_interleave(sizes[1], -1)
    return whole[..., :queries, :keys]
