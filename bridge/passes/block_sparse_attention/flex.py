"""The BlockMask of FlexAttention beside the blocks that its mask_mod looks up.

PyTorch computes what mask_mod says, without torch.compile; the tensors of the BlockMask only say what is worth a look.
They must be made of the tensor that mask_mod looks up, and of no other input.
"""

from typing import Any

import torch
from torch.fx import Node

from bridge.passes.block_sparse_attention.blocks import Blocks
from bridge.passes.common.constants import Constants
from bridge.passes.window_attention.attention import Attention, Declined
from bridge.passes.window_attention.flex import BLOCK_TENSORS, NO_BLOCKS, SIZES


def check_made_of(attention: Attention, blocks: Blocks, constants: Constants) -> None:
    """Declined: the tensors of the BlockMask may hide what the blocks show."""
    assert attention.fused is not None
    block_mask: Any = attention.fused.args[4]
    if block_mask[SIZES] == (NO_BLOCKS, NO_BLOCKS):
        return
    for each in block_mask[BLOCK_TENSORS]:
        if not isinstance(each, Node):
            continue
        if constants.held(each) is not None:
            raise Declined("the blocks of its BlockMask are constants, and not made of its mask")
        inputs = _inputs(each, blocks.node, constants)
        if inputs - {blocks.node}:
            raise Declined("the blocks of its BlockMask depend on inputs that its mask_mod does not look up")
        if not inputs:
            raise Declined("the blocks of its BlockMask are not made of its mask")


def _inputs(node: Node, mask: Node, constants: Constants) -> set[Node]:
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
