"""Converts a lowered graph into a network, with torch_tensorrt's converters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from bridge.engine_file import dtypes
from bridge.engine_file.contents import TensorSpec
from bridge.errors import BridgeError, BuildError
from bridge.graph.model_source import model_line
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import errors_text
from bridge.tensorrt.network.broadcasts import drop_expansions
from bridge.tensorrt.network.empty_tensors import keep_zero_extents
from bridge.tensorrt.network.node_layers import NodeLayers, log_nodes
from bridge.tensorrt.network.op_converter import Conversion
from bridge.tensorrt.plugins import byte_inputs
from bridge.tensorrt.plugins.op_calls import tensor_of


@dataclass(frozen=True)
class FilledNetwork:
    """The result of a conversion. Keep it until the engine is built: the network does not own its constants.

    profiles: of all shapes, and of the tuned ones alone; none if no shape is dynamic. nodes: the layers of each node.
    """

    profiles: Sequence[Any]
    constants: Any
    nodes: list[dict[str, Any]]


def fill_network(
    flavour: Flavour,
    module: GraphModule,
    settings: Any,
    builder: Any,
    network: Any,
    conversion: Conversion,
    inputs: Mapping[str, TensorSpec],
    outputs: Sequence[str],
) -> FilledNetwork:
    """Adds every node of the graph to the network.

    inputs: of every used placeholder, by name. outputs: the names of the graph's results.
    BuildError: a converter failed, or TensorRT refused a layer; the message names the line of the model.
    """
    interpreter = _interpreter_class(flavour)(module, settings, builder, network, conversion, inputs, outputs)
    interpreter.run_graph()
    drop_expansions(flavour.trt(), network)
    keep_zero_extents(flavour.trt(), network)
    dynamic = any(spec.dynamic for spec in inputs.values())
    nodes = interpreter.node_layers.nodes()
    log_nodes(nodes, conversion.layers)
    constants = module, interpreter.ctx.cpu_weights_reference_holder
    return FilledNetwork(interpreter.profiles if dynamic else (), constants, nodes)


@cache
def _interpreter_class(flavour: Flavour) -> type:
    """A subclass made at run time, because torch_tensorrt is imported late."""
    flavour.torch_tensorrt()
    from torch_tensorrt.dynamo.conversion import TRTInterpreter

    return type("NetworkInterpreter", (_NetworkInterpreter, TRTInterpreter), {"flavour": flavour})


class _NetworkInterpreter(Interpreter):
    """torch_tensorrt's interpreter with bridge's network, inputs, outputs and errors; it builds no engine."""

    flavour: Flavour

    def __init__(
        self, module: Any, settings: Any, builder: Any, network: Any, conversion: Any, inputs: Any, outputs: Any
    ) -> None:
        from torch_tensorrt.dynamo.conversion._ConversionContext import ConversionContext

        super().__init__(module, (), compilation_settings=settings)  # type: ignore[arg-type, call-arg]
        self.extra_traceback = False
        self.builder = builder
        self.ctx = ConversionContext(network, settings)
        self.ctx.bridge = conversion
        self.profiles = builder.create_optimization_profile(), builder.create_optimization_profile()
        self.node_layers = NodeLayers(module.graph, network, conversion.layers)
        self._inputs = inputs
        self._placeholders = {node.target: node for node in module.graph.find_nodes(op="placeholder")}
        self._outputs = outputs

    def run_graph(self) -> None:
        Interpreter.run(self, enable_io_processing=False)

    def run_node(self, n: Node) -> Any:
        if n.op == "placeholder" and n.target not in self._inputs:
            return None  # unused, or a literal that the graph already contains
        try:
            with self.node_layers.recording(n):
                value = super().run_node(n)
                return as_declared(self.ctx.net, value, n.meta.get("val"))
        except BridgeError:
            raise
        except Exception as error:  # converters assert, and raise what NumPy and TensorRT raise
            what = f"{n.target} cannot be converted: {error}" if n.op != "output" else f"an output: {error}"
            raise BuildError(f"{what}\n  {model_line(n)}{errors_text(self.flavour)}") from error

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        spec = self._inputs[target]
        if spec.dynamic:
            whole, tuned = self.profiles
            whole.set_shape(target, spec.min, spec.opt, spec.max)
            tuned.set_shape(target, spec.opt, spec.opt, spec.opt)
        dtype = "int8" if byte_inputs.declared_as_int8(self._placeholders[target]) else spec.dtype
        return self.ctx.net.add_input(target, dtypes.named(dtype).of(self.flavour.trt()), list(spec.shape))

    def output(self, target: Any, args: Any, kwargs: Any) -> list[Any]:
        nodes = self.module.graph.output_node().args[0]  # type: ignore[union-attr, operator]
        return [self._mark_output(*item) for item in zip(args[0], nodes, self._outputs, strict=True)]

    def _mark_output(self, value: Any, node: Node, name: str) -> Any:
        from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

        trt, network = self.flavour.trt(), self.ctx.net
        tensor = value if isinstance(value, trt.ITensor) else get_trt_tensor(self.ctx, value, name)
        declared = tensor_of(self.module, node).dtype  # type: ignore[arg-type]
        expected = dtypes.from_torch(declared)
        if expected is None:
            raise BuildError(f"output {name!r} is {declared}, {dtypes.absence(declared)}")
        if tensor.dtype != expected.of(trt):
            tensor = network.add_cast(tensor, expected.of(trt)).get_output(0)
        elif tensor is not value or tensor.is_network_input or tensor.is_network_output:
            tensor = network.add_identity(tensor).get_output(0)
        tensor.name = name
        network.mark_output(tensor)
        return tensor


def as_declared(network: Any, value: Any, declared: Any) -> Any:
    """The tensors of a node with the dtype, rank and fixed extents that the graph declares.

    int32 is accepted for int64, because shapes are computed in int32, and an input of int8 for the bytes of uint8.
    ValueError: a converter turned floats into integers, which no cast undoes, or changed the rank.
    """
    return _map_tensors(value, declared, lambda *pair: _as_declared(network, *pair))


def with_extents(network: Any, value: Any, declared: Any) -> Any:
    """The tensors of a node with the fixed extents that the graph declares, if the ranks agree."""
    return _map_tensors(
        value, declared, lambda x, y: _with_extents(network, x, tuple(y.shape)) if len(x.shape) == y.dim() else x
    )


def _map_tensors(value: Any, declared: Any, change: Callable[[Any, torch.Tensor], Any]) -> Any:
    """Applies `change` to each tensor of a node's results and its declaration in the graph."""
    if isinstance(value, (list, tuple)) and isinstance(declared, (list, tuple)) and len(value) == len(declared):
        return type(value)(_map_tensors(*pair, change) for pair in zip(value, declared, strict=True))
    if not hasattr(value, "is_network_input") or not isinstance(declared, torch.Tensor):
        return value
    return change(value, declared)


def _as_declared(network: Any, value: Any, declared: torch.Tensor) -> Any:
    value = _with_extents(network, value, tuple(declared.shape))
    actual, expected = dtypes.from_trt(value.dtype), dtypes.from_torch(declared.dtype)
    if actual is None or expected is None or actual == expected or (actual.name, expected.name) == ("int32", "int64"):
        return value
    if value.is_network_input and (actual.name, expected.name) == ("int8", "uint8"):
        return value
    if expected.torch.is_floating_point and not actual.torch.is_floating_point:
        raise ValueError(f"its converter gives {actual.name} where the model has {expected.name}")
    return network.add_cast(value, expected.like(value.dtype)).get_output(0)


def _with_extents(network: Any, value: Any, declared: tuple[Any, ...]) -> Any:
    """The tensor, reshaped if that gives TensorRT fixed extents.

    TensorRT loses them in reshapes to computed shapes; attention and plugins need some of them. torch_tensorrt's
    constants have one dimension where torch's scalars have none, and so do results computed from them.
    """
    shape = tuple(value.shape)
    if len(shape) != len(declared) and (declared or shape != (1,)):
        raise ValueError(f"its converter gives rank {len(shape)} where the model has rank {len(declared)}")
    fixed = [isinstance(extent, int) and extent > 0 for extent in declared]
    lost = any(known and extent < 0 for known, extent in zip(fixed, shape, strict=False))
    if len(shape) == len(declared) and not lost:
        return value
    layer = network.add_shuffle(value)
    layer.reshape_dims = [extent if known else 0 for known, extent in zip(fixed, declared, strict=True)]  # 0: unchanged
    return layer.get_output(0)
