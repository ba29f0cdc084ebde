"""config.pbtxt of a served model."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.engine_file.contents import EngineFile
from bridge.export.options import Options
from bridge.export.triton import batches, tensors
from bridge.export.triton.tensors import ServedTensor
from bridge.export.triton.text_format import Word, text

ENGINE = "model.engine"
"""The engine file in a version's folder, for the Python backend."""


def by_bridge(file: EngineFile) -> bool:
    """Whether bridge runs the engine, within the Python backend: the server has no backend for TensorRT-RTX."""
    return file.flavour == "tensorrt_rtx"


def config(file: EngineFile, options: Options) -> str:
    """The text. With dynamic batching the engine must have no `batches.refusal`."""
    rows = batches.refusal(file) is None
    message: dict[str, Any] = {
        "name": options.name,
        **({"backend": "python"} if by_bridge(file) else {"platform": "tensorrt_plan"}),
        "max_batch_size": batches.largest(file) if rows else 0,
        "input": [_described(each, rows) for each in inputs(file)],
        "output": [_described(each, rows) for each in outputs(file)],
        "instance_group": [{"count": options.instances, "kind": Word("KIND_GPU")}],
    }
    if options.dynamic_batching:
        message["dynamic_batching"] = {}  # a preferred size would end a batch that could be larger
    if options.warm_up:
        padded = rows and options.dynamic_batching and by_bridge(file)
        counts = batches.sizes(file) if padded else [file.inputs[0].opt[0] if rows else 0]
        message["model_warmup"] = [_warm_up(file, rows, count) for count in counts]
    if by_bridge(file):
        message["parameters"] = [{"key": "FORCE_CPU_ONLY_INPUT_TENSORS", "value": {"string_value": "no"}}]
    return text(message)


def inputs(file: EngineFile) -> list[ServedTensor]:
    """The inputs of the served model."""
    return tensors.inputs(file) if by_bridge(file) else tensors.engine_inputs(file)


def outputs(file: EngineFile) -> list[ServedTensor]:
    """The outputs of the served model: the whole result where bridge runs the engine, else the engine's."""
    if by_bridge(file):
        return tensors.results(file, batches.refusal(file) is None)
    return tensors.engine_outputs(file)


def _described(tensor: ServedTensor, rows: bool) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": data_type(tensor.dtype), **_dims(tensor.shape, rows)}


def data_type(dtype: str) -> Word:
    """The name of a data type in a configuration."""
    return Word(f"TYPE_{dtype}")


def _dims(shape: Sequence[int], rows: bool) -> dict[str, Any]:
    """Without the rows. To clients a tensor without other dimensions has one, of extent 1.

    The server takes it away for a model with rows alone; else bridge does.
    """
    rest = list(shape[1:] if rows else shape)
    return {"dims": rest or [1], **({"reshape": {"shape": []}} if rows and not rest else {})}


def _warm_up(file: EngineFile, rows: bool, count: int) -> Mapping[str, Any]:
    described = zip(inputs(file), file.inputs, strict=True)
    given = [
        {
            "key": tensor.name,
            "value": {
                "data_type": data_type(tensor.dtype),
                "dims": _dims(spec.opt, rows)["dims"],
                "zero_data": True,
            },
        }
        for tensor, spec in described
    ]
    return {"name": f"tuned shapes, {count} rows" if rows else "tuned shapes", "batch_size": count, "inputs": given}
