"""Runs the plugin nodes of an ONNX file on a CPU: operators for onnx.reference, made from the ops' references."""

from typing import Any

import numpy
import torch

from bridge.core import libraries
from bridge.core.op import OPS, Op
from bridge.tensorrt.plugins.fields import TENSORS_FIELD


def onnx_reference_ops() -> list[type]:
    """Classes that compute every op known here, for ``onnx.reference.ReferenceEvaluator(file, new_ops=...)``.

    Those of generated plugins are among them in the process that exported the file.
    """
    libraries.load_installed()
    return [*map(_operator, OPS.values()), _gather_elements()]


def _gather_elements() -> type:
    """ONNX's GatherElements; that of onnx 1.23 fails where there are more than 64 elements to choose from."""
    from onnx.reference.op_run import OpRun

    def run(self: Any, data: Any, indices: Any, axis: int = 0) -> tuple[Any, ...]:
        return (numpy.take_along_axis(data, indices, axis),)

    return type("GatherElements", (OpRun,), {"op_domain": "", "_run": run})


def _operator(op: Op) -> type:
    from onnx.reference.op_run import OpRun

    def run(self: Any, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        return evaluate(op, inputs, attributes)

    return type(op.local_name, (OpRun,), {"op_domain": op.namespace, "op_schema": None, "_run": run})


@torch.no_grad()
def evaluate(op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> tuple[Any, ...]:
    """The outputs of a plugin node, arrays like its inputs; a plugin also gives the extents that it counts."""
    names = [name.removesuffix("=") for name in attributes[TENSORS_FIELD].split(",")]
    given = {name: to_tensor(array) for name, array in zip(names, inputs, strict=True)}
    values = {attribute.name: _value(attribute.type, attributes[attribute.name]) for attribute in op.attributes}
    results = op.run(*(given.get(name) for name in op.tensors), **values)
    results = (results,) if op.num_outputs == 1 else results
    counts = [numpy.array(results[place].shape[0], dtype=numpy.int64) for place in op.counted]
    return (*map(to_array, results), *counts)


def _value(kind: str, value: Any) -> Any:
    """An attribute as the op takes it. Several numbers for one stand for their sum, see Field."""
    if kind == "float":
        return sum(map(float, value)) if isinstance(value, list) else float(value)
    if kind == "bool":
        return bool(value)
    return list(map(float, value)) if kind == "float[]" else value


def to_tensor(array: Any) -> torch.Tensor:
    """An array as a tensor of its own; of ml_dtypes' bfloat16, too."""
    array = numpy.asarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(numpy.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def to_array(tensor: torch.Tensor) -> Any:
    """A tensor as onnx.reference takes it; bfloat16 is ml_dtypes' there."""
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
