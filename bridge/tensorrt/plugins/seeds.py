"""The ONNX model whose import seeds plugin layers (see plugin_layers.py)."""

from collections.abc import Sequence
from typing import Any

from bridge.engine_file.dtypes import DType
from bridge.tensorrt.plugins.fields import Call, onnx_attributes

# Opset 20 is the first in which ConstantOfShape makes bfloat16; IR version 9 goes with it.
_OPSET, _IR_VERSION = 20, 9


def seed_model(calls: Sequence[Call]) -> bytes:
    """A node for each call, of the call's name, on zeros of the shapes and dtypes that its tensors have in the example.

    Real shapes, because importing a plugin runs its shape rule; no input of the model itself, because the importer
    could not do without it later.
    """
    from onnx import helper

    nodes: list[Any] = []
    shapes: list[Any] = []
    outputs: list[Any] = []
    for call in calls:
        zeros = [_zeros(f"{call.name}.in{i}", *tensor) for i, tensor in enumerate(call.tensors) if tensor is not None]
        results = [f"{call.name}.out{i}" for i in range(call.op.num_outputs)]
        shapes += [shape for shape, _ in zeros]
        nodes += [node for _, node in zeros]
        outputs += [_output(*item) for item in zip(results, call.outputs, strict=True)]
        counts = [f"{call.name}.count{i}" for i in call.op.counted]
        nodes.append(_plugin_node(call, [node.output[0] for _, node in zeros], results + counts))
    graph = helper.make_graph(nodes, "plugins", [], outputs, shapes)
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


def _zeros(name: str, dtype: DType, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """An initializer that holds the shape, and the node that makes zeros of it: no element is stored."""
    from onnx import TensorProto, helper

    extents = helper.make_tensor(f"{name}.shape", TensorProto.INT64, [len(shape)], shape)
    zero = helper.make_tensor("zero", getattr(TensorProto, dtype.onnx), [1], bytes(dtype.torch.itemsize), raw=True)
    return extents, helper.make_node("ConstantOfShape", [extents.name], [name], value=zero)


def _output(name: str, dtype: DType) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, dtype.onnx), None)


def _plugin_node(call: Call, inputs: list[str], outputs: list[str]) -> Any:
    from onnx import AttributeProto, helper

    node = helper.make_node(call.op.local_name, inputs, outputs, name=call.name)
    for name, value, kind in onnx_attributes(call.op, call.fields()):
        node.attribute.append(helper.make_attribute(name, value, attr_type=getattr(AttributeProto, kind)))
    return node
