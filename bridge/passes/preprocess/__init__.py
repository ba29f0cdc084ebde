"""What stands between a camera's bytes and a model, as bridge::preprocess: permute, float, div, interpolate, sub, div.

Every step but the resize is an affine map of each channel, and the weights of a resize add up to 1. So the steps may
stand before it or after it: together they are one map `level * factor + shift` of resized levels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import CONVERSIONS, aten, is_copy, mutated_nodes, users_of
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.preprocess.steps import ARITHMETIC, CHANNELS, RESIZES, Declined, Levels, dtype_of, evaluate

NAME = "preprocess"
_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
# Users that read an input's shape or dtype alone.
_READERS = {aten.sym_size.int, aten.sym_size.default, aten._assert_tensor_metadata.default}


@dataclass
class Chain:
    """Images and the steps on the way from them, in order; the last one is replaced."""

    images: Node
    steps: list[Node]
    resize: Node

    @property
    def end(self) -> Node:
        """The node that is replaced."""
        return self.steps[-1]


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces chains in a graph, in place."""
    mutated, editor = mutated_nodes(graph), Editor(graph)

    def rewrite(node: Node) -> str | None:
        chain = _find(node, constants)
        if chain is None:
            return None
        levels = evaluate(chain.images, chain.steps, constants)
        _check(chain, mutated)
        args = _arguments(chain, levels)
        result = editor.call(OPS[NAME].overload, (chain.images,), chain.end, args)
        editor.replace(chain.end, result)
        return _text(args)

    resizes = [node for node in graph.nodes if getattr(node.target, "overloadpacket", None) in RESIZES]
    return rewrite_each(resizes, rewrite, (Declined, LayoutError), NAME, editor)


def _find(resize: Node, constants: Constants) -> Chain | None:
    """The chain through a resize; None where it does not begin with an input's bytes."""
    before = list(_before(resize, constants))
    if not before or not _is_bytes(before[-1]):
        return None
    images, *steps = before[::-1]
    steps.append(resize)
    node: Node | None = resize
    while (node := _after(node, constants)) is not None:  # type: ignore[arg-type]
        steps.append(node)
    while steps[-1] is not resize and dtype_of(steps[-1]) not in _DTYPES:
        steps.pop()
    return Chain(images, steps, resize) if dtype_of(steps[-1]) in _DTYPES else None


def _is_bytes(node: Node) -> bool:
    return node.op == "placeholder" and dtype_of(node) == torch.uint8


def _before(resize: Node, constants: Constants) -> Iterator[Node]:
    """The nodes before a resize, backwards, up to an input or a node that is no step."""
    node = resize.args[0]
    while isinstance(node, Node):
        yield node
        node = _source(node, constants) if node.op == "call_function" else None


def _source(node: Node, constants: Constants) -> Node | None:
    """The tensor that a step takes; None where a node is no step."""
    if node.target in (aten.permute.default, aten.flip.default, aten.round.default, aten.clamp.default):
        return node.args[0]  # type: ignore[return-value]
    if node.target in CONVERSIONS or is_copy(node):
        return node.args[0]  # type: ignore[return-value]
    if node.target in ARITHMETIC:
        given = [each for each in node.args[:2] if isinstance(each, Node) and constants.value(each) is None]
        return given[0] if len(given) == 1 else None
    return None


def _after(node: Node, constants: Constants) -> Node | None:
    """The step that alone takes a node's result; None where there is none, or it ends a chain."""
    users = users_of(node)
    if len(users) != 1 or users[0].op != "call_function":
        return None
    (user,) = users
    known = user.target in (aten.round.default, aten.clamp.default) or user.target in CONVERSIONS | set(ARITHMETIC)
    return user if (known or is_copy(user)) and _source(user, constants) is node else None


def _check(chain: Chain, mutated: set[Node]) -> None:
    inner = {chain.images, *chain.steps}
    if mutated & inner:
        raise Declined(MUTATED)
    if len({node.meta["val"].device for node in (chain.images, chain.end)}) > 1:
        raise Declined("it moves the images to another device")
    for node in inner - {chain.end}:
        others = set(users_of(node)) - inner
        if any(node is not chain.images or user.target not in _READERS for user in others):
            raise Declined(
                "the model uses the images otherwise too, or something on the way: an engine would need both"
            )


def _arguments(chain: Chain, levels: Levels) -> dict[str, Any]:
    settings, colours = dict(levels.settings), CHANNELS[len(levels.factor)]
    clamped = settings.pop("clamped", False) or dtype_of(chain.resize) == torch.uint8
    if settings["mode"] == "bicubic" and clamped != levels.rounded:
        raise Declined("it rounds levels that it does not clamp, or the reverse")
    if (levels.factor == 0).any() or not (levels.factor.isfinite() & levels.shift.isfinite()).all():
        raise Declined("its factors are 0 or not finite")
    mean, std = (_brief(values) for values in (-levels.shift / levels.factor, 1 / levels.factor))
    source = "bgr" if levels.reversed and colours == "rgb" else colours
    named = {"mean": mean, "std": std, "scale": 1.0, "source": source, "result": colours, "rounded": levels.rounded}
    return {**settings, **named, "dtype": _DTYPES[dtype_of(chain.end)]}  # type: ignore[index]


def _brief(values: Tensor) -> list[float]:
    numbers: list[float] = values.tolist()
    return numbers[:1] if len(set(numbers)) == 1 else numbers


def _text(args: dict[str, Any]) -> str:
    size, how = "x".join(map(str, args["output_size"])), args["mode"] + (", antialiased" if args["antialias"] else "")
    return f"bridge.preprocess, {args['source']} {args['layout']} to {size} {how}, {args['dtype']}"


PASS = Pass(NAME, apply, reads_bytes=True)
