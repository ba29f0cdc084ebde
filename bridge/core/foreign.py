"""Operators of other libraries that compute what one of bridge's ops computes, under another name.

They become bridge's plugin wherever a graph is converted. An entry of `FOREIGN` is in force once its library has
defined the operator, which importing that library does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from bridge.core.op import OPS, Op

Arguments = Mapping[str, Any]  # of one call, by the names of the operator's schema


@dataclass(frozen=True)
class Foreign:
    """`op` is bridge's. `bind` sorts the arguments of a call as Op.bind does. `refuse` reads the shapes of those of a
    graph's node and says why bridge's op cannot take its place, or None."""

    op: str
    bind: Callable[[Arguments], tuple[list[Any], dict[str, Any]]]
    refuse: Callable[[Arguments], str | None]


def _bind_deform_conv2d(given: Arguments) -> tuple[list[Any], dict[str, Any]]:
    mask = given["mask"] if given["use_mask"] else None  # where there is none, torchvision passes zeros
    tensors = [given["input"], given["offset"], given["weight"], given["bias"], mask]
    pairs = {"stride": "stride", "padding": "pad", "dilation": "dilation"}
    return tensors, {name: (given[f"{theirs}_h"], given[f"{theirs}_w"]) for name, theirs in pairs.items()}


def _refuse_deform_conv2d(given: Arguments) -> str | None:
    """bridge's op derives both numbers of groups from the shapes; torchvision is also told them."""
    for name in ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"):
        if not isinstance(given[name], int):
            return f"{name} is {given[name]}, which depends on shapes; the plugin needs a number"
    x, weight, offset = (_shape(given[name]) for name in ("input", "weight", "offset"))
    derived = {"groups": (x[1], weight[1]), "offset_groups": (offset[1], 2 * weight[2] * weight[3])}
    for name, (whole, part) in derived.items():
        if whole != part * given[name]:
            return f"{name} is {given[name]}, but the shapes make it {whole} / {part}"
    return None


def _bind_roi_align(given: Arguments) -> tuple[list[Any], dict[str, Any]]:
    shared = {name: given[name] for name in ("spatial_scale", "sampling_ratio", "aligned")}
    bins = given["pooled_height"], given["pooled_width"]
    return [given["input"], given["rois"]], {"output_size": bins, **shared}


def _refuse_roi_align(given: Arguments) -> str | None:
    for name in ("pooled_height", "pooled_width"):
        if not isinstance(given[name], int):
            return f"{name} is {given[name]}, which depends on shapes; the plugin needs a number"
    return None


def _bind_nms(given: Arguments) -> tuple[list[Any], dict[str, Any]]:
    return [given["dets"], given["scores"]], {"iou_threshold": given["iou_threshold"]}


FOREIGN = {
    "torchvision::deform_conv2d": Foreign("deform_conv2d", _bind_deform_conv2d, _refuse_deform_conv2d),
    "torchvision::nms": Foreign("nms", _bind_nms, lambda given: None),
    "torchvision::roi_align": Foreign("roi_align", _bind_roi_align, _refuse_roi_align),
}


def targets() -> dict[Any, Op]:
    """What nodes of a graph call that is one of bridge's ops: every op defined so far, and the operators of FOREIGN
    that exist by now."""
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
    """Why bridge's op cannot take the place of a foreign operator's node; None where it can, or it is no such node."""
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


def _shape(node: Node) -> Sequence[Any]:
    return node.meta["val"].shape
