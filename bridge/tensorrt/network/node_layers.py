"""Records the layers that each node of a graph became."""

import contextlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from torch.fx import Graph, Node

from bridge.base.log import logger
from bridge.graph.model_source import module_path, operator_name
from bridge.tensorrt.network import inventory
from bridge.tensorrt.plugins.fields import Call


class NodeLayers:
    """Records which layers are added for which node while a graph is converted.

    plugins: the plugin layers used so far, by name. The network may have them from the start (see plugin_layers.py).
    """

    def __init__(self, graph: Graph, network: Any, plugins: Mapping[str, Call]) -> None:
        # Read now, because torch_tensorrt removes module paths from the graph when it names a node's layers.
        self._modules = {node: module_path(node) for node in graph.nodes}
        self._network = network
        self._plugins = plugins
        self._seeded = network.num_layers
        self._spans: list[tuple[Node, range, range]] = []

    @contextlib.contextmanager
    def recording(self, node: Node) -> Iterator[None]:
        """The context in which a node is converted."""
        layers, plugins = self._network.num_layers, len(self._plugins)
        yield
        self._spans.append((node, range(layers, self._network.num_layers), range(plugins, len(self._plugins))))

    def nodes(self) -> list[dict[str, Any]]:
        """Every node in the graph's order, as JSON values: "name", "op", "module" and, by name, its "layers".

        Layers that no output depends on are left out, as in inventory.layers: TensorRT drops them.
        """
        names = [self._network.get_layer(index).name for index in range(self._network.num_layers)]
        seeded = {name: index for index, name in enumerate(names[: self._seeded]) if name in self._plugins}
        live = inventory.live(self._network)

        def layers(added: range, used: range) -> list[str]:
            plugins = [seeded[name] for name in islice(self._plugins, used.start, used.stop) if name in seeded]
            return [names[index] for index in (*plugins, *added) if index in live]

        return [
            {"name": node.name, "op": short_name(node), "module": self._modules[node], "layers": layers(*spans)}
            for node, *spans in self._spans
        ]


def short_name(node: Node) -> str:
    """The operator of a node, as "aten.add.Tensor"; for other nodes "placeholder", "get_attr" or "output"."""
    if node.op != "call_function":
        return node.op
    return operator_name(node).removesuffix(".default").removeprefix("_")


def log_nodes(nodes: list[dict[str, Any]], plugins: Mapping[str, Call]) -> None:
    """Logs a line for each node and for each plugin layer, at level debug."""
    for node in nodes:
        module = f" in {node['module']}" if node["module"] else ""
        logger.debug("node %s, %s%s: %s", node["name"], node["op"], module, "; ".join(node["layers"]) or "no layer")
    for name, call in plugins.items():
        attributes = ", ".join(f"{field.name}={field.value}" for field in call.fields())
        logger.debug("plugin layer %s, %s: %s", name, call.op.name, attributes)
