"""The results of a model as outputs of an ONNX graph: each under the model's own name, and each a value of its own."""

from collections.abc import Sequence
from typing import Any

from torch.export import ExportedProgram

from bridge.engine.call_structure import output_names
from bridge.errors import ExportError


def name_outputs(model: Any, program: ExportedProgram) -> None:
    """Names the outputs of a model as an engine's are. ExportError: the program returns no tensor, or a number."""
    graph = model.graph
    names = _names(program, [*(each.name for each in graph.inputs), *graph.initializers])
    inner = {each.name: each for node in graph for each in node.outputs if each.name in names}
    for index, (value, name) in enumerate(zip(list(graph.outputs), names, strict=True)):
        if value.producer() is None or value in graph.outputs[:index]:
            value = graph.outputs[index] = _copied(graph, value)
        if name in inner and inner[name] is not value:
            inner[name].name = f"{name}_inner"
        value.name = name


def _names(program: ExportedProgram, taken: Sequence[str]) -> list[str]:
    """The names of the results that are tensors; the others are no outputs."""
    kinds = [
        type(spec.arg).__name__
        for spec in program.graph_signature.output_specs
        if spec.kind.name == "USER_OUTPUT"
    ]  # fmt: skip
    pairs = list(zip(output_names(program.call_spec.out_spec, taken), kinds, strict=True))
    for name, kind in pairs:
        if kind not in ("TensorArgument", "ConstantArgument"):
            raise ExportError(f"the model returns {name}, a number taken from a shape; return tensors, or drop it")
    names = [name for name, kind in pairs if kind == "TensorArgument"]
    if not names:
        raise ExportError("the model returns no tensor; an ONNX file has at least one output")
    return names


def _copied(graph: Any, value: Any) -> Any:
    """The output of a new node that copies a value: an input, a weight, or what is an output already."""
    import onnx_ir

    node = onnx_ir.node("Identity", [value])
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    graph.append(node)
    return node.outputs[0]
