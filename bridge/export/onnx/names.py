"""The names of an ONNX graph's inputs and outputs: the model's own, and each output a value of its own."""

from collections.abc import Sequence
from typing import Any

from torch.export import ExportedProgram

from bridge.engine_file.output_names import output_names
from bridge.errors import ExportError


def name_inputs(model: Any, program: ExportedProgram) -> None:
    """Names the inputs as the program does; torch.onnx gives an input that is a result another name."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    names = [spec.arg.name for spec in specs if _is_tensor(spec)]
    _make_room(model.graph, names, model.graph.inputs)
    for value, name in zip(model.graph.inputs, names, strict=True):
        value.name = name


def name_outputs(model: Any, program: ExportedProgram) -> None:
    """Names the outputs as an engine's are. ExportError: the program returns no tensor, or a number."""
    graph = model.graph
    names = _names(program, [each.name for each in graph.inputs])
    for index, value in enumerate(list(graph.outputs)):
        if value.producer() is None or value in graph.outputs[:index]:
            graph.outputs[index] = _copied(graph, value)
    _make_room(graph, names, graph.outputs)
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _names(program: ExportedProgram, taken: Sequence[str]) -> list[str]:
    """The names of the results that are tensors; the others are no outputs."""
    specs = [spec for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    pairs = list(zip(output_names(program.call_spec.out_spec, taken), specs, strict=True))
    for name, spec in pairs:
        if not _is_tensor(spec) and type(spec.arg).__name__ != "ConstantArgument":
            raise ExportError(f"the model returns {name}, a number taken from a shape; return tensors, or drop it")
    names = [name for name, spec in pairs if _is_tensor(spec)]
    if not names:
        raise ExportError("the model returns no tensor; an ONNX file has at least one output")
    return names


def _is_tensor(spec: Any) -> bool:
    return type(spec.arg).__name__ == "TensorArgument"


def _make_room(graph: Any, names: Sequence[str], values: Sequence[Any]) -> None:
    """Renames all that has one of the names that these values will have: weights, and results of nodes."""
    for value in [*graph.initializers.values(), *(each for node in graph for each in node.outputs)]:
        if value.name in names and value not in values:
            value.name = f"{value.name}_inner"


def _copied(graph: Any, value: Any) -> Any:
    """The output of a new node that copies a value: an input, a weight, or what is an output already."""
    import onnx_ir

    node = onnx_ir.node("Identity", [value])
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    graph.append(node)
    return node.outputs[0]
