"""The network of an engine file as items and edges: the engine's inputs, its layers and its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.engine import node_table
from bridge.engine_file.contents import EngineFile, OutputSpec

INPUT, OUTPUT, PLUGIN, NATIVE = "input", "output", "plugin", "native"


@dataclass(frozen=True)
class Tensor:
    """A tensor of the network. shape: -1 is an extent that depends on the inputs; None is unknown."""

    name: str
    dtype: str | None
    shape: Sequence[int] | None


@dataclass
class Item:
    """An input, a layer or an output. folded: it computes from weights and extents alone; TensorRT does so once."""

    name: str
    what: str
    kind: str
    layer: Mapping[str, Any]
    folded: bool = False
    node: Mapping[str, Any] | None = None
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Edge:
    """From the item that makes a tensor to an item that takes it."""

    source: int
    target: int
    tensor: int


@dataclass
class Network:
    """Items in the order of execution: inputs, layers, outputs."""

    items: list[Item] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)


def of_file(file: EngineFile) -> Network:
    """The network of an engine file. Tensors are known by name; the first of several makers counts."""
    reader = _Reader(file)
    for spec in file.inputs:
        reader.add(Item(spec.name, INPUT, INPUT, {}), outputs=[Tensor(spec.name, spec.dtype, spec.shape)])
    for layer in file.layers:
        reader.add_layer(layer)
    for output in file.outputs:
        reader.add(Item(output.name, OUTPUT, OUTPUT, {}), inputs=[output.name])
    return reader.network(file.outputs)


class _Reader:
    """Collects items, then resolves the names of tensors."""

    def __init__(self, file: EngineFile) -> None:
        self._nodes = {name: node for node in node_table.nodes(file) or [] for name in node["layers"]}
        self._network = Network()
        self._taken: list[Sequence[str]] = []
        self._indices: dict[str, int] = {}
        self._makers: dict[int, int] = {}

    def add_layer(self, layer: Mapping[str, Any]) -> None:
        what = PLUGIN if layer.get("op") else NATIVE
        kind = str(layer.get("op") or layer["type"])
        tensors = [Tensor(each["name"], each["dtype"], each["shape"]) for each in layer.get("outputs", ())]
        item = Item(layer["name"], what, kind, layer, node=self._nodes.get(layer["name"]))
        self.add(item, layer.get("inputs", ()), tensors)

    def add(self, item: Item, inputs: Sequence[str] = (), outputs: Sequence[Tensor] = ()) -> None:
        for tensor in outputs:
            index = self._indices.get(tensor.name)
            if index is None:
                index = self._tensor(tensor)
                self._makers[index] = len(self._network.items)
            item.outputs.append(index)
        self._network.items.append(item)
        self._taken.append(inputs)

    def network(self, results: Sequence[OutputSpec]) -> Network:
        specs = {spec.name: Tensor(spec.name, spec.dtype, spec.shape) for spec in results}
        for index, (item, names) in enumerate(zip(self._network.items, self._taken, strict=True)):
            for name in names:
                item.inputs.append(self._taken_tensor(name, specs))
                maker = self._makers.get(item.inputs[-1])
                if maker is not None and maker != index:
                    self._network.edges.append(Edge(maker, index, item.inputs[-1]))
        _mark_folded(self._network)
        return self._network

    def _taken_tensor(self, name: str, specs: Mapping[str, Tensor]) -> int:
        if name not in self._indices:
            self._tensor(specs.get(name) or Tensor(name, None, None))
        return self._indices[name]

    def _tensor(self, tensor: Tensor) -> int:
        self._indices[tensor.name] = len(self._network.tensors)
        self._network.tensors.append(tensor)
        return self._indices[tensor.name]


def _mark_folded(network: Network) -> None:
    """A layer is folded where no value of an engine input reaches it; SHAPE takes extents alone."""
    carries_values = [item.what == INPUT for item in network.items]
    results = {edge.source for edge in network.edges if network.items[edge.target].what == OUTPUT}
    sources: list[list[int]] = [[] for _ in network.items]
    for edge in network.edges:
        sources[edge.target].append(edge.source)
    for index, item in enumerate(network.items):
        if item.what in (PLUGIN, NATIVE):
            carries_values[index] = item.kind != "SHAPE" and any(carries_values[source] for source in sources[index])
            item.folded = item.what == NATIVE and not carries_values[index] and index not in results
