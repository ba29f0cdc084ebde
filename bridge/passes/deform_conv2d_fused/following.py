"""BatchNorm and activation that follow a convolution and are all that takes its result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bridge.passes.common.nodes import arguments, aten, users_of
from bridge.passes.deform_conv2d_fused.batch_norm import BatchNorm, read_batch_norm


@dataclass(frozen=True)
class Following:
    """What follows, node by node; its names and numbers are the op's."""

    nodes: tuple[Node, ...] = ()
    norm: BatchNorm | None = None
    activation: str = "none"
    negative_slope: float = 0.01


def find_following(node: Node, can_fold: Callable[[BatchNorm], bool]) -> Following:
    """What follows a convolution. A BatchNorm that cannot be folded stays, and so does what follows it."""
    user = _sole_user(node)
    norm = read_batch_norm(user) if user is not None and user.args[0] is node else None
    nodes: tuple[Node, ...] = ()
    if norm is not None:
        if not can_fold(norm):
            return Following()
        nodes = norm.nodes
        node, user = nodes[-1], _sole_user(nodes[-1])
    if user is None or user.target not in _ACTIVATIONS:
        return Following(nodes, norm)
    activation, slope = _ACTIVATIONS[user.target](arguments(user))
    return Following((*nodes, user), norm, activation, slope)


def _sole_user(node: Node) -> Node | None:
    users = users_of(node)
    return users[0] if len(users) == 1 and users[0].op == "call_function" else None


_ACTIVATIONS: dict[Any, Callable[[dict[str, Any]], tuple[str, float]]] = {
    aten.relu.default: lambda given: ("relu", Following.negative_slope),
    aten.leaky_relu.default: lambda given: ("leaky_relu", float(given["negative_slope"])),
}
