"""The BlockMask of FlexAttention beside the blocks of its mask_mod.

PyTorch computes what mask_mod says, without torch.compile; the tensors of the BlockMask only say what is worth a look.
They must be made of the tensor that mask_mod looks up, and of no other input. Those that a model holds are compared
with all that mask_mod says.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bridge.passes.block_sparse_attention.arithmetic import BlockFormula
from bridge.passes.block_sparse_attention.blocks import Blocks
from bridge.passes.common.constants import Constants
from bridge.passes.window_attention.attention import Attention, Declined
from bridge.passes.window_attention.flex import BLOCK_TENSORS, NO_BLOCKS, SIZES, listed_elements

_MOST = 1 << 28  # pairs of a query and a key that are looked at one by one


def check_made_of(attention: Attention, blocks: Blocks | BlockFormula, constants: Constants) -> None:
    """Declined: the tensors of the BlockMask may hide what the blocks show."""
    assert attention.fused is not None
    block_mask: Any = attention.fused.args[4]
    if block_mask[SIZES] == (NO_BLOCKS, NO_BLOCKS):
        return
    tensors = [each for each in block_mask[BLOCK_TENSORS] if isinstance(each, Node)]
    if any(constants.held(each) is not None for each in tensors):
        return _check_held(attention, constants)
    allowed = {blocks.node} if blocks.node is not None else set()
    for each in tensors:
        inputs = _inputs(each, blocks.node, constants)
        if inputs - allowed:
            raise Declined("the blocks of its BlockMask depend on inputs that its mask_mod does not look up")
        if allowed - inputs:
            raise Declined("the blocks of its BlockMask are not made of its mask")


def _check_held(attention: Attention, constants: Constants) -> None:
    """Of a BlockMask that the model holds."""
    assert attention.fused is not None
    block_mask: Any = attention.fused.args[4]
    held = [constants.held(each) if isinstance(each, Node) else None for each in block_mask[BLOCK_TENSORS]][:4]
    captured: Sequence[Any] = attention.fused.args[8] if len(attention.fused.args) > 8 else ()  # type: ignore[assignment]
    tables = [constants.held(each) if isinstance(each, Node) else each for each in captured]
    if held[0] is None or held[1] is None or any(table is None for table in tables):
        raise Declined("the blocks of its BlockMask are constants, and not made of its mask")
    shape = attention.logits
    if not all(isinstance(extent, int) for extent in shape) or math.prod(shape) > _MOST:
        raise Declined(f"the blocks of its BlockMask are not compared with its mask, for its logits are {shape}")
    seen = _shown(attention, tables)
    full = listed_elements(held[2], held[3], shape[2], shape[3], block_mask[SIZES])
    looked_at = full | listed_elements(held[0], held[1], shape[2], shape[3], block_mask[SIZES])
    if not bool((looked_at | ~seen).all()) or not bool((seen | ~full).all()):
        raise Declined("the blocks of its BlockMask are not those of its mask_mod")


def _shown(attention: Attention, tables: Sequence[Any]) -> Tensor:
    """What mask_mod says of each pair, of a shape that broadcasts to that of the logits."""
    assert attention.fused is not None
    block_mask: Any = attention.fused.args[4]
    mask_mod = getattr(attention.fused.graph.owning_module, block_mask[-1].target)
    indices = [
        torch.arange(extent, dtype=torch.int32).view([-1 if dim == place else 1 for dim in range(4)])
        for place, extent in enumerate(attention.logits)
    ]
    with torch.no_grad():
        return mask_mod(*indices, *tables)


def _inputs(node: Node, mask: Node | None, constants: Constants) -> set[Node]:
    """The mask, where a tensor depends on it, and the inputs that it depends on otherwise, except on their extents."""
    pending, seen, found = [node], set[Node](), set[Node]()
    while pending:
        each = pending.pop()
        if each in seen or not isinstance(each.meta.get("val"), torch.Tensor):
            continue
        seen.add(each)
        if each is mask or (each.op == "placeholder" and constants.held(each) is None):
            found.add(each)
            continue
        pending += each.all_input_nodes
    return found
