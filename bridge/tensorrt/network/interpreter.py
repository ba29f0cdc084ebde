"""Runs a lowered graph through torch_tensorrt's converters, into a network of our own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bridge.engine_file import dtypes
from bridge.engine_file.contents import TensorSpec
from bridge.errors import BridgeError, BuildError
from bridge.graph.model_source import model_line
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import describe_errors
from bridge.tensorrt.network.broadcasts import drop_repeats
from bridge.tensorrt.network.op_converter import Conversion
from bridge.tensorrt.network.placement import Placement, log_nodes
from bridge.tensorrt.plugins.op_calls import tensor_of


@dataclass(frozen=True)
class Filling:
    """What was put into a network. Keep it until the engine is built: the network only points to its constants.

    profile: the optimization profile, None where no shape is dynamic. nodes: which layers each node became.
    """

    profile: Any
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
) -> Filling:
    """Adds every node of the graph to the network.

    inputs: of every placeholder that is used, by its name. outputs: a name for each node that the graph returns.
    BuildError: a converter failed, or TensorRT refused a layer; the message names the line of the model.
    """
    interpreter = _interpreter_class(flavour)(module, settings, builder, network, conversion, inputs, outputs)
    interpreter.run_graph()
    drop_repeats(flavour.trt(), network)
    dynamic = any(spec.dynamic for spec in inputs.values())
    nodes = interpreter.placement.nodes()
    log_nodes(nodes, conversion.layers)
    constants = module, interpreter.ctx.cpu_weights_reference_holder
    return Filling(interpreter.profile if dynamic else None, constants, nodes)


@cache
def _interpreter_class(flavour: Flavour) -> type:
    flavour.torch_tensorrt()
    from torch.fx import Interpreter
    from torch_tensorrt.dynamo.conversion import TRTInterpreter
    from torch_tensorrt.dynamo.conversion._ConversionContext import ConversionContext
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    trt = flavour.trt()

    class NetworkInterpreter(TRTInterpreter):
        """torch_tensorrt's interpreter, with our network, inputs, outputs and errors, and no engine at the end."""

        def __init__(
            self, module: Any, settings: Any, builder: Any, network: Any, conversion: Any, inputs: Any, outputs: Any
        ) -> None:
            super().__init__(module, (), compilation_settings=settings)
            self.extra_traceback = False
            self.builder = builder
            self.ctx = ConversionContext(network, settings)
            self.ctx.bridge = conversion
            self.profile = builder.create_optimization_profile()
            self.placement = Placement(module.graph, network, conversion.layers)
            self._inputs = inputs
            self._outputs = outputs

        def run_graph(self) -> None:
            Interpreter.run(self, enable_io_processing=False)

        def run_node(self, node: Node) -> Any:
            if node.op == "placeholder" and node.target not in self._inputs:
                return None  # unused, or a literal, which the graph holds where it is used
            try:
                with self.placement.of(node):
                    value = super().run_node(node)
                    return as_declared(self.ctx.net, value, node.meta.get("val"))
            except BridgeError:
                raise
            except Exception as error:  # converters assert, and raise what NumPy and TensorRT raise
                what = f"{node.target} cannot be converted: {error}" if node.op != "output" else f"an output: {error}"
                raise BuildError(f"{what}\n  {model_line(node)}{describe_errors(flavour)}") from error

        def placeholder(self, target: str, args: Any, kwargs: Any) -> Any:
            spec = self._inputs[target]
            shape = [low if low == high else -1 for low, high in zip(spec.min, spec.max, strict=True)]
            if spec.dynamic:
                self.profile.set_shape(target, spec.min, spec.opt, spec.max)
            return self.ctx.net.add_input(target, dtypes.named(spec.dtype).of(trt), shape)

        def output(self, target: str, args: Any, kwargs: Any) -> list[Any]:
            nodes = self.module.graph.output_node().args[0]
            return [self._mark(*item) for item in zip(args[0], nodes, self._outputs, strict=True)]

        def _mark(self, value: Any, node: Node, name: str) -> Any:
            network = self.ctx.net
            tensor = value if isinstance(value, trt.ITensor) else get_trt_tensor(self.ctx, value, name)
            declared = tensor_of(self.module, node).dtype
            wanted = dtypes.from_torch(declared)
            if wanted is None:
                raise BuildError(f"output {name!r} is {declared}, {dtypes.absence(declared)}")
            if tensor.dtype != wanted.of(trt):
                tensor = network.add_cast(tensor, wanted.of(trt)).get_output(0)
            elif tensor is not value or tensor.is_network_input or tensor.is_network_output:
                tensor = network.add_identity(tensor).get_output(0)
            tensor.name = name
            network.mark_output(tensor)
            return tensor

    return NetworkInterpreter


def as_declared(network: Any, value: Any, declared: Any) -> Any:
    """The tensors of a node as the graph declares them: dtype, but int32 for int64, in which shapes are computed; rank;
    and the extents that the graph knows to be fixed.

    ValueError: a converter made integers of floats, which no cast brings back, or a tensor of another rank.
    """
    return _each(value, declared, lambda *pair: _as_declared(network, *pair))


def with_extents(network: Any, value: Any, declared: Any) -> Any:
    """The tensors of a node with the extents that the graph knows to be fixed, where they have its rank."""
    return _each(
        value, declared, lambda x, y: _with_extents(network, x, tuple(y.shape)) if len(x.shape) == y.dim() else x
    )


def _each(value: Any, declared: Any, change: Callable[[Any, torch.Tensor], Any]) -> Any:
    """A node's results with `change` made of every tensor of the network and what the graph declares it to be."""
    if isinstance(value, (list, tuple)) and isinstance(declared, (list, tuple)) and len(value) == len(declared):
        return type(value)(_each(*pair, change) for pair in zip(value, declared, strict=True))
    if not hasattr(value, "is_network_input") or not isinstance(declared, torch.Tensor):
        return value
    return change(value, declared)


def _as_declared(network: Any, value: Any, declared: torch.Tensor) -> Any:
    value = _with_extents(network, value, tuple(declared.shape))
    found, wanted = dtypes.from_trt(value.dtype), dtypes.from_torch(declared.dtype)
    if found is None or wanted is None or found == wanted or (found.name, wanted.name) == ("int32", "int64"):
        return value
    if wanted.torch.is_floating_point and not found.torch.is_floating_point:
        raise ValueError(f"its converter gives {found.name} where the model has {wanted.name}")
    return network.add_cast(value, wanted.like(value.dtype)).get_output(0)


def _with_extents(network: Any, value: Any, declared: tuple[Any, ...]) -> Any:
    """The tensor, reshaped where that tells TensorRT more.

    It loses fixed extents in reshapes by computed shapes, and attention and plugins want some of them. torch_tensorrt's
    constants have a dimension where torch's scalars have none, and so have results made with them.
    """
    shape = tuple(value.shape)
    if len(shape) != len(declared) and (declared or shape != (1,)):
        raise ValueError(f"its converter gives rank {len(shape)} where the model has rank {len(declared)}")
    fixed = [isinstance(extent, int) and extent > 0 for extent in declared]
    lost = any(known and extent < 0 for known, extent in zip(fixed, shape, strict=False))
    if len(shape) == len(declared) and not lost:
        return value
    layer = network.add_shuffle(value)
    layer.reshape_dims = [extent if known else 0 for known, extent in zip(fixed, declared, strict=True)]  # 0: as it is
    return layer.get_output(0)
