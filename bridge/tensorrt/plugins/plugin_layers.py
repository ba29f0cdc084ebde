"""Puts the plugin layers of bridge's ops into a network.

Standard TensorRT adds one directly (`DirectPlugins`). TensorRT-RTX's network has no such function, but its ONNX parser
imports plugins, into an empty network alone; so there the layers are seeded (`SeededPlugins`): before anything else a
small ONNX model with one node for each bridge op of the graph is parsed, each on constants; later each layer is given
its real inputs, and TensorRT drops the constants as dead.
"""

from collections.abc import Container, Sequence
from typing import Any, Protocol

from bridge.core.op import Op
from bridge.errors import BuildError
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import errors_text, logger
from bridge.tensorrt.plugins.fields import VERSION, Call, make_fields
from bridge.tensorrt.plugins.seeds import seed_model


class Plugins(Protocol):
    """Where the converter gets its layers from."""

    def layer(self, name: str, op: Op, tensors: Sequence[Any | None], attributes: dict[str, Any]) -> Any:
        """The plugin layer of the FX node `name`, reading `tensors`, None where an optional one is absent."""

    def unused(self) -> list[str]:
        """The nodes whose layers stand in the network and were not asked for."""


def plugins_for(flavour: Flavour, network: Any, calls: Sequence[Call]) -> Plugins:
    """The plugin layers of a network that is still empty, for the calls that its graph holds."""
    return (DirectPlugins if flavour.traits.adds_plugins else SeededPlugins)(flavour, network, calls)


class DirectPlugins:
    """For networks with add_plugin_v3: a registered creator makes the plugin, the network takes it."""

    def __init__(self, flavour: Flavour, network: Any, calls: Sequence[Call] = ()) -> None:
        self._flavour = flavour
        self._network = network
        self._constants = {call.name: call.constant for call in calls}

    def layer(self, name: str, op: Op, tensors: Sequence[Any | None], attributes: dict[str, Any]) -> Any:
        """Adds the layer. BuildError: TensorRT refuses the plugin or its inputs."""
        present, constant = [tensor is not None for tensor in tensors], self._constants.get(name, frozenset())
        plugin = create_plugin(self._flavour, name, op, present, attributes, constant)
        layer = self._network.add_plugin_v3([tensor for tensor in tensors if tensor is not None], [], plugin)
        if layer is None:
            raise BuildError(f"TensorRT did not take the plugin {op.name} of {name}{errors_text(self._flavour)}")
        return layer

    def unused(self) -> list[str]:
        """None: a layer is added when it is asked for."""
        return []


def create_plugin(
    flavour: Flavour,
    name: str,
    op: Op,
    present: Sequence[bool],
    attributes: dict[str, Any],
    constant: Container[str] = (),
) -> Any:
    """A plugin from TensorRT's registry. BuildError: its creator is not registered, or refuses the attributes."""
    trt = flavour.trt()
    creator = trt.get_plugin_registry().get_creator(op.local_name, VERSION, op.namespace)
    if creator is None:
        raise BuildError(f"no plugin {op.qualified_name} is registered{errors_text(flavour)}")
    fields = make_fields(op, present, attributes, constant)
    arrays = [field.array() for field in fields]  # a PluginField only points to its data
    items = [
        trt.PluginField(field.name, array, getattr(trt.PluginFieldType, field.kind.trt))
        for field, array in zip(fields, arrays, strict=True)
    ]
    plugin = creator.create_plugin(name, trt.PluginFieldCollection(items), trt.TensorRTPhase.BUILD)
    if plugin is None:
        raise BuildError(f"the plugin {op.name} refuses the attributes {attributes}{errors_text(flavour)}")
    return plugin


class SeededPlugins:
    """For networks without add_plugin_v3: every layer is there from the start, by way of the ONNX parser."""

    def __init__(self, flavour: Flavour, network: Any, calls: Sequence[Call]) -> None:
        self._layers: dict[str, Any] = {}
        # The parser must live as long as the network, whose layers it owns in part.
        self._parser = flavour.trt().OnnxParser(network, logger(flavour))
        if calls:
            self._import(flavour, network, seed_model(calls))
            self._check_names(calls)

    def _check_names(self, calls: Sequence[Call]) -> None:
        """BuildError: the parser made something else of an op than its plugin; it goes by the name alone."""
        wrong = sorted({call.op.qualified_name for call in calls if call.name not in self._layers})
        if wrong:
            raise BuildError(f"TensorRT takes {', '.join(wrong)} for an operator of ONNX: give the op another name")

    def _import(self, flavour: Flavour, network: Any, model: bytes) -> None:
        if not self._parser.parse(model):
            errors = [self._parser.get_error(index).desc() for index in range(self._parser.num_errors)]
            raise BuildError(f"TensorRT did not import the plugins: {'; '.join(errors)}{errors_text(flavour)}")
        while network.num_outputs:
            network.unmark_output(network.get_output(0))
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        plugin = flavour.trt().LayerType.PLUGIN_V3
        self._layers = {layer.name: layer for layer in layers if layer.type == plugin}

    def layer(self, name: str, op: Op, tensors: Sequence[Any | None], attributes: dict[str, Any]) -> Any:
        """Takes the layer that was seeded for this node, whose attributes it has already."""
        layer = self._layers.pop(name)
        for index, tensor in enumerate(tensor for tensor in tensors if tensor is not None):
            layer.set_input(index, tensor)
        return layer

    def unused(self) -> list[str]:
        """The nodes whose layers were seeded and not taken."""
        return list(self._layers)
