"""Operators of integers whose result is a float, such as a range of positions times 0.5.

torch_tensorrt computes some of them with integers, and cuts off what follows the point.
"""

import torch
from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten
_OPERATORS = (
    _ATEN.add.Tensor,
    _ATEN.add.Scalar,
    _ATEN.sub.Tensor,
    _ATEN.sub.Scalar,
    _ATEN.rsub.Scalar,
    _ATEN.mul.Tensor,
    _ATEN.mul.Scalar,
    _ATEN.div.Tensor,
    _ATEN.div.Scalar,
    _ATEN.pow.Tensor_Scalar,
    _ATEN.pow.Tensor_Tensor,
    _ATEN.pow.Scalar,
    _ATEN.maximum.default,
    _ATEN.minimum.default,
    _ATEN.clamp.default,
)


def promote(module: GraphModule) -> None:
    """Casts the integer tensors that such an operator takes to the dtype of its result."""
    for node in list(module.graph.nodes):
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if node.target in _OPERATORS and dtype is not None and dtype.is_floating_point:
            for source in node.all_input_nodes:
                if _is_integer(source):
                    _cast(node, source, dtype)
    module.recompile()


def _is_integer(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not value.dtype.is_floating_point


def _cast(node: Node, source: Node, dtype: torch.dtype) -> None:
    with node.graph.inserting_before(node):
        cast = node.graph.call_function(_ATEN._to_copy.default, (source,), {"dtype": dtype})
    cast.meta = {key: node.meta[key] for key in ("stack_trace", "nn_module_stack") if key in node.meta}
    cast.meta["val"] = source.meta["val"].to(dtype)
    node.replace_input_with(source, cast)
