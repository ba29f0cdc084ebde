"""BatchNorm in eval mode, and what a convolution's weights are when it is part of them."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.editor import Editor
from bridge.passes.common.nodes import arguments, aten, value

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class BatchNorm:
    """(x - mean) / sqrt(variance + eps) * weight + bias, channel by channel; the last of `nodes` has the result."""

    weight: Node | None
    bias: Node | None
    mean: Node
    variance: Node
    eps: float
    nodes: tuple[Node, ...]

    def fold(self, weight: Node, bias: Node | None, editor: Editor) -> tuple[Node, Node]:
        """The weight and bias of a convolution with this BatchNorm as a part of it, computed in the graph."""
        like = self.nodes[-1]
        dtype = like.meta["val"].dtype
        return _fold(self, weight, bias, dtype, lambda target, *args, **kwargs: editor.call(target, args, like, kwargs))


def read_batch_norm(node: Node | None) -> BatchNorm | None:
    """The BatchNorm that a node begins; None where it is none, or has the moments of its input, or keeps them."""
    if node is None or node.target not in _TARGETS:
        return None
    given = arguments(node)
    nodes: tuple[Node, ...] = (node,)
    if given.get("training", False) or given["running_mean"] is None or given["running_var"] is None:
        return None
    if value(node) is None:
        used = [user for user in node.users if user.users]
        if len(used) != 1 or used[0].target is not operator.getitem or used[0].args[1] != 0:
            return None
        nodes = (node, used[0])
    eps = float(given["eps"] if "eps" in given else given["epsilon"])
    return BatchNorm(given["weight"], given["bias"], given["running_mean"], given["running_var"], eps, nodes)


def is_foldable(norm: BatchNorm, weight: Node, bias: Node | None, constants: Constants, mutated: set[Node]) -> bool:
    """Whether all weights are constants, and those that have it as a part of them are finite in their dtype."""
    nodes = [node for node in (weight, bias, norm.weight, norm.bias, norm.mean, norm.variance) if node is not None]
    held = {node: constants.held(node) for node in nodes if node not in mutated}
    if any(held.get(node) is None or held[node].dtype not in _DTYPES for node in nodes):  # type: ignore[union-attr]
        return False

    def compute(target: Any, *args: Any, **kwargs: Any) -> Any:
        return target(*torch.fx.map_arg(args, lambda node: held[node]), **kwargs)

    with torch.no_grad():
        tensors = _fold(norm, weight, bias, norm.nodes[-1].meta["val"].dtype, compute)
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _fold(norm: BatchNorm, weight: Any, bias: Any, dtype: torch.dtype, call: Callable[..., Any]) -> tuple[Any, Any]:
    """In float32, rounded once."""

    def wide(tensor: Any) -> Any:
        return call(aten._to_copy.default, tensor, dtype=torch.float32)

    scale = call(aten.rsqrt.default, call(aten.add.Tensor, wide(norm.variance), norm.eps))
    if norm.weight is not None:
        scale = call(aten.mul.Tensor, scale, wide(norm.weight))
    mean = wide(norm.mean)
    apart = call(aten.neg.default, mean) if bias is None else call(aten.sub.Tensor, wide(bias), mean)
    shift = call(aten.mul.Tensor, apart, scale)
    if norm.bias is not None:
        shift = call(aten.add.Tensor, shift, wide(norm.bias))
    channels = call(aten.reshape.default, scale, [-1, 1, 1, 1])
    scaled = call(aten.mul.Tensor, wide(weight), channels)
    return call(aten._to_copy.default, scaled, dtype=dtype), call(aten._to_copy.default, shift, dtype=dtype)


_TARGETS = {
    aten.batch_norm.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
}
