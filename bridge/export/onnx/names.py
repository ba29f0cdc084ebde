"""The names of an ONNX graph's inputs and outputs: the model's own, and each output a value of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

from bridge.engine_file.output_names import output_names
from bridge.errors import ExportError


@dataclass(frozen=True)
class Names:
    """What the model calls its inputs and outputs."""

    inputs: Sequence[str]
    outputs: Sequence[str]


def names_of(program: ExportedProgram) -> Names:
    """The names of the arguments and results that are tensors. ExportError: the program returns none, or a number."""
    signature = program.graph_signature
    taken = [spec for spec in signature.input_specs if spec.kind.name == "USER_INPUT"]
    inputs = [spec.arg.name for spec in taken if _is_tensor(spec)]
    given = [spec for spec in signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    pairs = list(zip(output_names(program.call_spec.out_spec, inputs), given, strict=True))
    for name, spec in pairs:
        if not _is_tensor(spec) and type(spec.arg).__name__ != "ConstantArgument":
            raise ExportError(f"the model returns {name}, a number taken from a shape; return tensors, or drop it")
    outputs = [name for name, spec in pairs if _is_tensor(spec)]
    if not outputs:
        raise ExportError("the model returns no tensor; an ONNX file has at least one output")
    return Names(inputs, outputs)


def name_tensors(model: Any, names: Names) -> None:
    """Gives the inputs and outputs of a graph these names. torch.onnx renames an input that is a result."""
    graph = model.graph
    for index, value in enumerate(list(graph.outputs)):
        if value.producer() is None or value in graph.outputs[:index]:
            graph.outputs[index] = _copied(graph, value)
    values = [*graph.inputs, *graph.outputs]
    wanted = [*names.inputs, *names.outputs]
    for value in [*graph.initializers.values(), *(each for node in graph for each in node.outputs)]:
        if value.name in wanted and value not in values:
            value.name = f"{value.name}_inner"
    for value, name in zip(values, wanted, strict=True):
        value.name = name


def _is_tensor(spec: Any) -> bool:
    return type(spec.arg).__name__ == "TensorArgument"


def _copied(graph: Any, value: Any) -> Any:
    """The output of a new node that copies a value: an input, a weight, or what is an output already."""
    import onnx_ir

    node = onnx_ir.node("Identity", [value])
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    graph.append(node)
    return node.outputs[0]
