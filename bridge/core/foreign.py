"""Operators that are not defined by bridge's ops and become their plugins wherever a graph is converted; see `bind`.

An entry is in force once its library has defined the operator, which importing that library does.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from bridge.core.op import OPS, Op

Arguments = Mapping[str, Any]  # of one call, by the names of the operator's schema
SortedArguments = tuple[Sequence[Any], Mapping[str, Any]]  # positional and keyword arguments of an op
SortArguments = Callable[[Arguments], SortedArguments]
ReasonAgainst = Callable[[Arguments], str | None]


@dataclass(frozen=True)
class Foreign:
    """What `bind` was told of one operator; `op` is the name of the op that takes its place."""

    op: str
    arguments: SortArguments
    reason_against: ReasonAgainst


FOREIGN: dict[str, Foreign] = {}
"""Every such operator, by its qualified name."""


def reason_unknown(given: Arguments, names: Iterable[str]) -> str | None:
    """That one of these arguments of a graph's node is no number, for a plugin's attributes are numbers; or None."""
    for name in names:
        if not isinstance(given[name], int):
            return f"{name} is {given[name]}, which depends on shapes; the plugin needs a number"
    return None


def shape_of(node: Node) -> Sequence[Any]:
    """The extents of what a graph's node holds: numbers, or symbols."""
    return node.meta["val"].shape


def targets() -> dict[Any, Op]:
    """What nodes of a graph call that is an op: every op defined so far, and the operators of FOREIGN that exist by
    now."""
    found: dict[Any, Op] = {op.overload: op for op in OPS.values()}
    for name, foreign in FOREIGN.items():
        overload = overload_of(name)
        if overload is not None:
            found[overload] = OPS[foreign.op]
    return found


def bind(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Op, list[Any], dict[str, Any]]:
    """The op that a target stands for, and the arguments of a call of it sorted as Op.bind sorts them."""
    foreign = FOREIGN.get(_name(target))
    if foreign is None:
        op = targets()[target]
        return op, *op.bind(args, kwargs)
    op = OPS[foreign.op]
    tensors, attributes = foreign.arguments(_by_name(target, args, kwargs))
    return op, *op.bind(tensors, attributes)


def reason_against(node: Node) -> str | None:
    """Why an op cannot take the place of a foreign operator's node; None where it can, or it is no such node."""
    foreign = FOREIGN.get(_name(node.target))
    if foreign is None:
        return None
    return _missing_result(node, OPS[foreign.op]) or foreign.reason_against(
        _by_name(node.target, node.args, node.kwargs)
    )


def num_results(target: Any, op: Op) -> int:
    """How many tensors a node with this target stands for; an op that takes its place may have the first ones alone."""
    return len(target._schema.returns) if _name(target) in FOREIGN else op.num_outputs


def _missing_result(node: Node, op: Op) -> str | None:
    """That a graph takes a result which the op has not; or None."""
    count = num_results(node.target, op)
    if count == op.num_outputs:
        return None
    takes: list[Any] = [user.args[1] if user.target is operator.getitem else count for user in node.users if user.users]
    most, found = max(takes, default=0) + 1, op.num_outputs
    return f"the model takes {most} results of it, and its plugin {op.name} gives {found}" if most > found else None


def overload_of(name: str) -> OpOverload | None:
    """The default overload of an operator, by its qualified name; None where torch has none by now."""
    namespace, _, operator = name.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), operator, None), "default", None)


def _name(target: Any) -> str:
    return target._schema.name if isinstance(target, OpOverload) else ""


def _by_name(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    arguments = target._schema.arguments
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return defaults | dict(zip([argument.name for argument in arguments], args, strict=False)) | dict(kwargs)
