"""ONNX files in tests: on a CPU by onnx.reference, and as TensorRT's ONNX parser imports them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch.utils import _pytree as pytree

import bridge
from bridge.engine_file.contents import EngineFile
from bridge.export.onnx.reference import to_array, to_tensor
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.install.tensorrt_log import logger
from bridge.tensorrt.network import build


def tensors_in(*values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def run(path: Path, *arguments: Any) -> list[torch.Tensor]:
    """The outputs of a file on a CPU."""
    evaluator = ReferenceEvaluator(str(path), new_ops=bridge.onnx_reference_ops())
    arrays = map(to_array, tensors_in(*arguments))
    results = evaluator.run(None, dict(zip(evaluator.input_names, arrays, strict=True)))
    return [to_tensor(numpy.asarray(result)) for result in results]


def assert_equal_to(model: torch.nn.Module, path: Path, args: Sequence[Any], tolerance: float = 1e-5, **kwargs: Any):
    """The file gives what the model gives; the tolerance is a fraction of the largest element."""
    with torch.no_grad():
        expected = tensors_in(model(*args, **kwargs))
    actual = run(path, args, kwargs)
    for value, reference in zip(actual, expected, strict=True):
        assert value.dtype == reference.dtype and value.shape == reference.shape
        largest = reference.abs().max().item() if reference.numel() else 0.0
        torch.testing.assert_close(value, reference, rtol=0, atol=tolerance * largest)


def plugin_nodes(path: Path) -> list[dict[str, Any]]:
    """Name and attributes of the plugin nodes of a file, sorted; a number in parts is their sum."""
    nodes = [node for node in onnx.load(path, load_external_data=False).graph.node if node.domain]
    rows = []
    for node in nodes:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        plain = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
        assert plain.pop("plugin_version") == "1" and plain.pop("plugin_namespace") == node.domain
        rows.append({"op": node.op_type, "attributes": {name: _plain(value) for name, value in plain.items()}})
    return sorted(rows, key=_text)


def plugin_layers(file: EngineFile) -> list[dict[str, Any]]:
    """The same of an engine file's layers."""
    layers = [layer for layer in file.layers if layer["type"] == "PLUGIN_V3"]
    rows = [
        {
            "op": layer["op"].rpartition("::")[2],
            "attributes": {name: _plain(value) for name, value in layer["attributes"].items()},
        }
        for layer in layers
    ]
    return sorted(rows, key=_text)


def _text(row: Any) -> str:
    return json.dumps(row, sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], float):
        value = sum(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return int(value) if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value


class Imported:
    """A file as the parser of TensorRT-RTX imports it, with nothing of bridge's but the registered plugins."""

    def __init__(self, file: Any) -> None:
        self.flavour, self.file = detect(), file
        self.builder, self.network = build.create_network(self.flavour)
        trt = self.flavour.trt()
        self.parser = trt.OnnxParser(self.network, logger(self.flavour))
        assert self.parser.parse_from_file(str(file.path)), self.parser.get_error(0).desc()
        layers = [self.network.get_layer(index) for index in range(self.network.num_layers)]
        self.plugins = [layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3]

    def engine(self) -> bytes:
        """Built for compute capability 8.6."""
        profile = self.builder.create_optimization_profile()
        for spec in self.file.inputs:
            profile.set_shape(spec.name, spec.min, spec.opt, spec.max)
        config = bridge.Config(target="sm86", optimization_level=0)
        return build.build_engine(self.flavour, self.builder, self.network, (profile,), "sm86", config)
