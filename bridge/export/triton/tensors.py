"""The inputs and outputs of an engine as the server knows them: names, data types and shapes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils import _pytree as pytree

from bridge.core.op import OPS
from bridge.engine_file import dtypes
from bridge.engine_file.contents import EngineFile, OutputSpec, TensorSpec
from bridge.engine_file.output_names import output_names
from bridge.engine_file.pytrees import Tree

_LITERALS: dict[type, str] = {bool: "BOOL", int: "INT64", float: "FP64"}
VARIABLE = -1


@dataclass(frozen=True)
class ServedTensor:
    """An input or output of a served model.

    dtype: the server's name, such as "FP16". shape: with -1 for what varies. source: of an output, an entry of
    `EngineFile.output_map`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Any = None


def inputs(file: EngineFile) -> list[ServedTensor]:
    """The inputs as bridge takes them."""
    return [_of_input(spec) for spec in file.inputs]


def engine_inputs(file: EngineFile) -> list[ServedTensor]:
    """The inputs as the engine declares them: bytes that its plugins take are INT8, see plugins/byte_inputs.py."""
    read = {name for layer in file.layers if layer["op"] in OPS for name in layer["inputs"]}
    taken = [spec.dtype == "uint8" and spec.name in read for spec in file.inputs]
    return [_of_input(replace(spec, dtype="int8") if t else spec) for spec, t in zip(file.inputs, taken, strict=True)]


def engine_outputs(file: EngineFile) -> list[ServedTensor]:
    """The engine's outputs."""
    return [_of_output(index, spec) for index, spec in enumerate(file.outputs)]


def results(file: EngineFile, rows: bool) -> list[ServedTensor]:
    """An output for every tensor and number of the model's result. Texts and None are in the manifest alone.

    An output of the engine has its name there. What the result holds twice, an input that it holds and a number are
    named by their keys in the result. A number has the shape [1], or with `rows` one element for each row.
    """
    taken = [spec.name for spec in file.inputs] + [spec.name for spec in file.outputs]
    names = output_names(pytree.tree_structure(_plain(file.out_spec)), taken)
    served: dict[str, ServedTensor] = {}
    for name, entry in zip(names, file.output_map, strict=True):
        tensor = _of_result(file, entry, rows)
        if tensor is not None:
            name = name if tensor.name in served else tensor.name or name
            served[name] = replace(tensor, name=name)
    return list(served.values())


def _of_result(file: EngineFile, entry: Any, rows: bool) -> ServedTensor | None:
    """Without a name, unless it is an output of the engine; None: the leaf is no output."""
    if isinstance(entry, int):
        return _of_output(entry, file.outputs[entry])
    if "input" in entry:
        return replace(_of_input(file.inputs[entry["input"]]), name="", source=entry)
    dtype = _LITERALS.get(type(entry["literal"]))
    return None if dtype is None else ServedTensor("", dtype, (VARIABLE, 1) if rows else (1,), entry)


def _plain(tree: Tree) -> Any:
    """A dict or tuple with the keys of a container: this process may lack its class."""
    if tree.is_leaf:
        return 0
    keys = tree.context[1] if tree.kind in ("defaultdict", "registered") else tree.context
    children = [_plain(child) for child in tree.children]
    if isinstance(keys, tuple) and len(keys) == len(children):
        return dict(zip(map(str, keys), children, strict=True))
    return tuple(children)


def _of_input(spec: TensorSpec) -> ServedTensor:
    return ServedTensor(spec.name, dtypes.named(spec.dtype).triton, _served(spec.shape))


def _of_output(index: int, spec: OutputSpec) -> ServedTensor:
    return ServedTensor(spec.name, dtypes.named(spec.dtype).triton, _served(spec.shape), index)


def _served(extents: Sequence[int]) -> tuple[int, ...]:
    """The server takes no extent of 0, so that is one that varies."""
    return tuple(extent or VARIABLE for extent in extents)
