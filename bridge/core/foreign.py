"""Operators of other libraries that compute what an op computes, under another name.

They become the op's plugin wherever a graph is converted. The file of the op says which they are, see `stands_for`; an
entry is in force once its library has defined the operator, which importing that library does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from bridge.core.op import OPS, Op
from bridge.errors import OpDefinitionError

Arguments = Mapping[str, Any]  # of one call, by the names of the operator's schema
Bound = tuple[list[Any], dict[str, Any]]
Bind = Callable[[Arguments], Bound]
Refuse = Callable[[Arguments], str | None]


@dataclass(frozen=True)
class Foreign:
    """What `stands_for` was told of one operator; `op` is the name of the op that takes its place."""

    op: str
    bind: Bind
    refuse: Refuse


FOREIGN: dict[str, Foreign] = {}
"""Every such operator, by its qualified name."""


def stands_for(name: str, op: str, bind: Bind, refuse: Refuse = lambda given: None) -> None:
    """Has an op take the place of another library's operator, such as "acme::corr".

    Args:
        name: the operator's, with its namespace.
        op: the name of an op that is defined.
        bind: sorts the arguments of a call as Op.bind does.
        refuse: reads the shapes of the arguments of a graph's node, and says why the op cannot take its place, or None.
    Raises:
        OpDefinitionError: there is no such op, the name is none, or another op has it.
    """
    if op not in OPS:
        raise OpDefinitionError(f"{name}: no op is called {op!r}; there are {', '.join(sorted(OPS))}")
    if not all(name.partition("::")):
        raise OpDefinitionError(f"op {op}: {name!r} is no operator's name; expected one such as 'acme::corr'")
    if name in FOREIGN:
        raise OpDefinitionError(f"op {op}: {name} is taken by the op {FOREIGN[name].op}")
    FOREIGN[name] = Foreign(op, bind, refuse)


def refuse_unknown(given: Arguments, names: Iterable[str]) -> str | None:
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
        overload = _overload(name)
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
    tensors, attributes = foreign.bind(_by_name(target, args, kwargs))
    return op, *op.bind(tensors, attributes)


def refuse(node: Node) -> str | None:
    """Why an op cannot take the place of a foreign operator's node; None where it can, or it is no such node."""
    foreign = FOREIGN.get(_name(node.target))
    return None if foreign is None else foreign.refuse(_by_name(node.target, node.args, node.kwargs))


def _overload(name: str) -> OpOverload | None:
    namespace, _, operator = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), operator, None)
    return None if packet is None else packet.default


def _name(target: Any) -> str:
    return target._schema.name if isinstance(target, OpOverload) else ""


def _by_name(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    arguments = target._schema.arguments
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return defaults | dict(zip([argument.name for argument in arguments], args, strict=False)) | dict(kwargs)
