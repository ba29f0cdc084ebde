"""RMS normalisation as PyTorch computes it on a GPU, instead of torch_tensorrt's graph pass.

PyTorch fuses it into one operator on GPUs alone. torch_tensorrt's pass expands that operator in the dtype of x. There
the square of a float16 value above 255 overflows, and the whole row becomes 0. For a missing eps it takes 1e-5.
"""

import contextlib
import importlib
import operator
from types import ModuleType
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bridge.base.patches import replace

_MODULE = "torch_tensorrt.dynamo.lowering.passes.replace_fused_rms_norm"
_NARROW = (torch.float16, torch.bfloat16)
_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack")


def compute_in_float32(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """Makes torch_tensorrt's pass compute 16-bit values in float32, with PyTorch's default for eps."""
    module = importlib.import_module(_MODULE)
    replace(stack, module, "process_fused_rms_norm_node", expand)


def expand(node: Node, module: GraphModule) -> tuple[Node, Node]:
    """Replaces an aten._fused_rms_norm by plain operators: (the normalised x, 1 / root mean square)."""
    aten = torch.ops.aten
    x, shape, weight, eps = node.args
    dtype = node.meta["val"][0].dtype
    wide = torch.float32 if dtype in _NARROW else dtype
    if eps is None:
        eps = torch.finfo(wide).eps
    axes = [-1 - axis for axis in range(len(shape))]  # type: ignore[arg-type]
    with module.graph.inserting_before(node):
        insert = _NodeInserter(node, module)
        x = insert.cast(x, wide)
        mean = insert(aten.mean.dim, insert(aten.mul.Tensor, x, x), axes, True)
        scale = insert(aten.rsqrt.default, insert(aten.add.Tensor, mean, eps))
        result = insert(aten.mul.Tensor, x, scale)
        if weight is not None:
            result = insert(aten.mul.Tensor, result, insert.cast(weight, wide))
        result = insert.cast(result, dtype)
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with((result, scale)[user.args[1]])  # type: ignore[index]
            module.graph.erase_node(user)
    module.graph.erase_node(node)
    return result, scale


class _NodeInserter:
    """Inserts nodes in place of `node`, with its line of the model and with example values."""

    def __init__(self, node: Node, module: GraphModule) -> None:
        self._graph = module.graph
        self._meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        node = self._graph.call_function(target, args, kwargs)
        node.meta.update(self._meta)
        known = [arg.meta.get("val") if isinstance(arg, Node) else arg for arg in args]
        if not any(isinstance(arg, Node) and value is None for arg, value in zip(args, known, strict=True)):
            node.meta["val"] = target(*known, **kwargs)
        return node

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        """The value in a dtype; the value itself if it has that dtype."""
        known = value.meta.get("val")
        if known is not None and known.dtype == dtype:
            return value
        return self(torch.ops.aten._to_copy.default, value, dtype=dtype)
