"""Has TensorRT's ONNX parser import a file, as those will who build an engine of it."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridge.core.library import Library
from bridge.errors import BuildError
from bridge.export.onnx.translate import TRACE
from bridge.graph.model_source import line_of_trace
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import errors_text, logger, take_errors
from bridge.tensorrt.network import build
from bridge.tensorrt.plugins.registration import register_plugins


def check_import(flavour: Flavour, path: Path, libraries: Iterable[Library], plugins: Counter[str]) -> None:
    """BuildError: the file is invalid, or the parser refuses a node, or does not make a layer of each of `plugins`."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise BuildError(f"torch.onnx made an invalid model: {error}") from error
    trt = flavour.trt()
    take_errors(flavour)  # of earlier work
    register_plugins(trt, libraries)
    builder, network = build.create_network(flavour)
    parser = trt.OnnxParser(network, logger(flavour))
    if not parser.parse_from_file(str(path)):
        reasons = [_reason(parser.get_error(index), path) for index in range(parser.num_errors)]
        text = "\n  ".join(dict.fromkeys(reasons))
        raise BuildError(
            f"the ONNX parser of {flavour.name} {flavour.version} does not import the model:\n  {text}"
            f"{errors_text(flavour)}\nbridge.compile may convert what the parser refuses."
        )
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers)
    if made != sum(plugins.values()):
        names = ", ".join(plugins)
        raise BuildError(
            f"the ONNX parser of {flavour.name} {flavour.version} made {made} plugin layers of {sum(plugins.values())}"
            f" nodes ({names}): it takes one of them for an operator of ONNX; give that op another name"
        )
    del parser, network, builder


def _reason(error: Any, path: Path) -> str:
    """What the parser says of a node, with the line of the model."""
    name, operator = error.node_name(), error.node_operator()
    line = _line(name, path)
    return f"{operator} ({name}): {error.desc()}" + (f"; {line}" if line else "")


def _line(name: str, path: Path) -> str:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    found = [node for node in graph.node if node.name == name]
    traces = [entry.value for node in found for entry in node.metadata_props if entry.key == TRACE]
    return line_of_trace(traces[0]) if traces else ""
