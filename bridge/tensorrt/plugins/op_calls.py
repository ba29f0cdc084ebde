"""Finds the bridge ops of a graph, with what their plugins must know before the network is built."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bridge.core import foreign
from bridge.core.op import Op
from bridge.engine_file import dtypes
from bridge.engine_file.dtypes import DType
from bridge.errors import UnsupportedOpError
from bridge.graph.model_source import model_line
from bridge.tensorrt.install import version_shims
from bridge.tensorrt.plugins import byte_inputs, shape_rules
from bridge.tensorrt.plugins.fields import Call


def find_calls(module: GraphModule) -> list[Call]:
    """Every use of a bridge op, or of a foreign operator that is one, in the graph's order.

    UnsupportedOpError: a tensor's dtype is none of TensorRT's, the arguments of a foreign operator do not fit, or the
    op has no plugin. BuildError: the plugin library's rule gives other shapes than the graph has.
    """
    targets = foreign.targets()
    calls = [(node, _call(module, node)) for node in module.graph.nodes if node.target in targets]
    for node, call in calls:
        _, values, _ = foreign.bind(node.target, node.args, node.kwargs)
        shape_rules.check(call, [value and tensor_of(module, value) for value in values], _results(call.op, node))
    return [call for _, call in calls]


def convertible_calls(module: GraphModule) -> list[Call]:
    """Those of them that are not refused."""
    targets = foreign.targets()
    calls = []
    for node in module.graph.nodes:
        if node.target in targets:
            with contextlib.suppress(UnsupportedOpError):
                calls.append(_call(module, node))
    return calls


def plugin_refusal(node: Node) -> str | None:
    """Why a node that calls a bridge op cannot be a plugin layer, going by what is written on the node; or None."""
    op = foreign.targets().get(node.target)
    lacking = None if op is None else shape_rules.refusal(op)
    others = (foreign.reason_against, dtype_refusal, byte_inputs.refusal, _counted_refusal)
    return lacking or next((reason for rule in others if (reason := rule(node)) is not None), None)


def _counted_refusal(node: Node) -> str | None:
    op = foreign.targets().get(node.target)
    if op is None or not op.counted or version_shims.in_own_conversion():
        return None
    return "the shape of its result depends on values, for which torch_tensorrt makes no room; bridge.compile does"


def dtype_refusal(node: Node) -> str | None:
    """That a node takes or gives a dtype that an engine has not; or None."""
    for tensor in tensors_of([node, *node.all_input_nodes]):
        if dtypes.from_torch(tensor.dtype) is None:
            return f"it takes or gives {tensor.dtype}, {dtypes.absence(tensor.dtype)}"
    return None


def tensors_of(nodes: Sequence[Node]) -> list[torch.Tensor]:
    """The tensors that nodes stand for, one or several each; nothing of nodes that stand for numbers."""
    values = [node.meta.get("val") for node in nodes]
    leaves = [leaf for value in values for leaf in (value if isinstance(value, (list, tuple)) else [value])]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _call(module: GraphModule, node: Node) -> Call:
    reason = foreign.reason_against(node) or byte_inputs.refusal(node)
    if reason is not None:
        raise UnsupportedOpError(f"{node.target}: {reason}; {model_line(node)}")
    op, values, attributes = foreign.bind(node.target, node.args, node.kwargs)
    tensors = [_tensor_spec(module, node, op, *item) for item in enumerate(values)]
    results = _results(op, node)
    outputs = [_dtype(result, f"{op.name}: output {index}", node) for index, result in enumerate(results)]
    shapes = tuple(_shape(module, value) for value in values)
    constant = _constants(op.tensors, values)
    made = tuple(_fixed_extents(result) for result in results)
    return Call(node.name, op, tuple(tensors), tuple(outputs), attributes, shapes, model_line(node), constant, made)


def _results(op: Op, node: Node) -> list[torch.Tensor]:
    value = node.meta["val"]
    return list(value)[: op.num_outputs] if isinstance(value, (list, tuple)) else [value]


def _constants(names: Sequence[str], values: Sequence[Any]) -> frozenset[str]:
    """The tensors that stay as they are. In torch_tensorrt's own engines weights may be refitted."""
    if not version_shims.in_own_conversion():
        return frozenset()
    pairs = zip(names, values, strict=True)
    return frozenset(name for name, value in pairs if isinstance(value, Node) and value.op == "get_attr")


def _shape(module: GraphModule, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    return _fixed_extents(tensor_of(module, value))


def _fixed_extents(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else -1 for extent in tensor.shape)


def _tensor_spec(
    module: GraphModule, node: Node, op: Op, place: int, value: Any
) -> tuple[DType, tuple[int, ...]] | None:
    if value is None:
        return None
    what = f"{op.name}: {op.tensors[place]}"
    if not isinstance(value, Node):
        raise UnsupportedOpError(f"{what} is {value!r}, expected a tensor; {model_line(node)}")
    tensor = tensor_of(module, value)
    dtype = dtypes.named("int8") if byte_inputs.takes_bytes(op, place) else _dtype(tensor, what, node)
    return dtype, tuple(map(example_extent, tensor.shape))


def _dtype(tensor: torch.Tensor, what: str, node: Node) -> DType:
    dtype = dtypes.from_torch(tensor.dtype)
    if dtype is None:
        known = ", ".join(row.name for row in dtypes.DTYPES)
        why = dtypes.absence(tensor.dtype)
        raise UnsupportedOpError(f"{what} is {tensor.dtype}, {why}; there are {known}; {model_line(node)}")
    return dtype


def tensor_of(module: GraphModule, node: Node) -> torch.Tensor:
    """The tensor, perhaps a fake one, that a node stands for."""
    value = node.meta.get("val")
    if value is None and node.op == "get_attr":
        value = _attribute(module, node.target)
    if not isinstance(value, torch.Tensor):
        raise UnsupportedOpError(f"{node.name} is {value!r}, expected a tensor; {model_line(node)}")
    return value


def example_extent(extent: int | torch.SymInt) -> int:
    """An extent in the example; a symbolic one that the example does not fix counts as 2."""
    if isinstance(extent, int):
        return extent
    hint = extent.node.hint
    return int(hint) if hint is not None else 2


def _attribute(module: torch.nn.Module, target: Any) -> Any:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value
