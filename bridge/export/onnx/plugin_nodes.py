"""The ONNX nodes of plugins: how torch.onnx translates an op, and what is known of a node once the graph is whole."""

from collections.abc import Callable, Sequence
from typing import Any

from torch._ops import OpOverload

from bridge.core.op import OPS, Op
from bridge.engine_file.dtypes import DTYPES
from bridge.tensorrt.plugins.byte_inputs import takes_bytes
from bridge.tensorrt.plugins.fields import TENSORS_FIELD, make_fields, onnx_attributes

DOMAIN_VERSION = 1
"""Of the domain of a namespace: plugins have versions of their own."""


def translation(op: Op) -> Callable[..., Any]:
    """What torch.onnx calls to translate a call of an op, in the form of its custom_translation_table."""

    def translate(*args: Any, **kwargs: Any) -> Any:
        tensors, attributes = op.bind(args, kwargs)
        fields = make_fields(op, [tensor is not None for tensor in tensors], attributes)
        given = [tensor for tensor in tensors if tensor is not None]
        outputs = add_node(op.namespace, op.local_name, given, onnx_attributes(op, fields), _outputs(op))
        return outputs[0] if op.num_outputs == 1 else outputs[: op.num_outputs]

    return translate


def _outputs(op: Op) -> int:
    """A plugin counts each extent that depends on values in an output of its own."""
    return op.num_outputs + len(op.counted)


def stub(overload: OpOverload) -> Callable[..., Any]:
    """The same for an operator that has no translation: a node to go on with, so that all such operators are found."""

    def translate(*args: Any, **kwargs: Any) -> Any:
        outputs = add_node("untranslated", str(overload), (), (), len(overload._schema.returns))
        return outputs[0] if len(outputs) == 1 else outputs

    return translate


def add_node(
    domain: str, name: str, inputs: Sequence[Any], attributes: Sequence[tuple[str, Any, str]], outputs: int
) -> Sequence[Any]:
    """Adds a node to the graph that torch.onnx makes; attributes: name, value and type of each."""
    import onnx_ir
    from onnx.defs import OpSchema
    from onnxscript.values import Op as Operator
    from onnxscript.values import Opset

    def places(kind: str, count: int) -> list[Any]:
        return [OpSchema.FormalParameter(f"{kind}{index}", "T") for index in range(count)]

    schema = OpSchema(
        name,
        domain,
        DOMAIN_VERSION,
        inputs=places("input", len(inputs)),
        outputs=places("output", outputs),
        type_constraints=[("T", [f"tensor({dtype.onnx.lower()})" for dtype in DTYPES], "")],
        attributes=[
            OpSchema.Attribute(key, getattr(OpSchema.AttrType, kind), required=False) for key, _, kind in attributes
        ],
    )
    values = {key: onnx_ir.Attr(key, onnx_ir.AttributeType[kind], value) for key, value, kind in attributes}
    made = Operator(Opset(domain, DOMAIN_VERSION), name, schema)(*inputs, **values)
    return made if isinstance(made, Sequence) else [made]


def mark_constants(model: Any) -> None:
    """Marks, in the attribute that names a plugin's tensors, those that are weights of the file."""
    import onnx_ir

    for node in _plugin_nodes(model):
        names = node.attributes[TENSORS_FIELD].as_string().split(",")
        pairs = zip(names, node.inputs, strict=True)
        marked = [f"{name}=" if _is_constant(value) else name for name, value in pairs]
        node.attributes.add(onnx_ir.AttrString(TENSORS_FIELD, ",".join(marked)))


def declare_bytes(model: Any) -> None:
    """Declares uint8 inputs of the model that plugins alone take as int8, the same bytes: see plugins/byte_inputs."""
    import onnx_ir

    plugins = {id(node): op for node, op in zip(_plugin_nodes(model), plugins_in(model), strict=True)}
    for value in model.graph.inputs:
        users = [(plugins.get(id(node)), node) for node in value.consumers()]
        taken = users and all(op is not None and _takes_as_bytes(op, node, value) for op, node in users)
        if value.dtype == onnx_ir.DataType.UINT8 and taken and not value.is_graph_output():
            value.dtype = onnx_ir.DataType.INT8


def _takes_as_bytes(op: Op, node: Any, value: Any) -> bool:
    names = [name.rstrip("=") for name in node.attributes[TENSORS_FIELD].as_string().split(",")]
    places = [op.tensors.index(name) for name, each in zip(names, node.inputs, strict=True) if each is value]
    return all(takes_bytes(op, place) for place in places)


def plugins_in(model: Any) -> list[Op]:
    """The op of each node of a model that is imported as a plugin."""
    ops = {(op.namespace, op.local_name): op for op in OPS.values()}
    return [ops[node.domain, node.op_type] for node in _plugin_nodes(model)]


def _plugin_nodes(model: Any) -> list[Any]:
    return [node for node in model.graph if "plugin_namespace" in node.attributes]


def _is_constant(value: Any) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")
