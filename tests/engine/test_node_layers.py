"""Which node of a graph each layer is of: recorded while the graph is converted."""

from collections import Counter
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from compile_models import Attention, Convolutional, Deformable
from torch import nn

import bridge
from bridge.engine import node_table
from bridge.graph.model_source import module_path
from bridge.tensorrt.install import flavour
from bridge.tensorrt.network import build, inventory
from bridge.tensorrt.network.node_layers import NodeLayers, short_name

compiles = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def compiled(model):
    torch.manual_seed(0)
    args, dynamic_shapes = model.example(torch.float16)
    return bridge.compile(model().eval().half(), args, dynamic_shapes=dynamic_shapes, target="sm86", cache=False).file


def by_name(file):
    return {node["name"]: node for node in node_table.nodes(file)}


@compiles
@pytest.mark.parametrize("model", [Convolutional, Attention, Deformable], ids=lambda model: model.__name__)
def test_every_layer_is_of_one_node(model):
    file = compiled(model)
    of_nodes = Counter(name for node in node_table.nodes(file) for name in node["layers"])
    assert of_nodes == Counter(layer["name"] for layer in file.layers)
    assert of_nodes.most_common(1)[0][1] == 1
    plugins = {layer["name"]: layer["op"] for layer in file.layers if layer["op"]}
    of_ops = [node for node in node_table.nodes(file) if node["op"].startswith("bridge.")]
    assert Counter(node["op"] for node in of_ops) == Counter(f"bridge.{op}" for op in plugins.values())
    for node in of_ops:
        assert [plugins[name] for name in node["layers"] if name in plugins] == [node["op"].removeprefix("bridge.")]


@compiles
def test_nodes_stand_in_the_graphs_order_with_operator_and_module():
    nodes = by_name(compiled(Convolutional))
    assert list(nodes)[-1] == "output" and list(nodes).index("relu") < list(nodes).index("mean")
    assert {name: (node["op"], node["module"]) for name, node in nodes.items()}.items() >= {
        ("x", ("placeholder", "")),
        ("conv_weight", ("get_attr", "conv")),
        ("convolution", ("aten.convolution", "conv")),
        ("relu", ("bridge.relu", "")),
        ("mean", ("aten.mean.dim", "")),
        ("linear", ("aten.linear", "head")),
    }
    assert {node["module"] for node in nodes.values()} == {"", "conv", "norm", "head"}
    assert nodes["conv_weight"]["layers"] == nodes["x"]["layers"] == []
    assert len(nodes["linear"]["layers"]) > 1


@compiles
def test_nodes_that_need_no_layer_have_none():
    nodes = by_name(compiled(Attention))
    assert nodes["getitem"]["op"] == "operator.getitem"
    assert nodes["getitem"]["layers"] == nodes["clone"]["layers"] == []


@compiles
def test_nested_modules_are_named_by_their_whole_path():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Convolutional() for _ in range(2)])

        def forward(self, x):
            return sum(layer(x) for layer in self.layers)

    x = torch.randn(2, 3, 8, 8)
    file = bridge.compile(Block().eval(), (x,), target="sm86", cache=False).file
    assert {node["module"] for node in node_table.nodes(file)} >= {
        "layers.0.conv",
        "layers.0",
        "layers.1",
        "layers.1.head",
    }


@compiles
def test_the_file_keeps_the_nodes(tmp_path):
    file = compiled(Convolutional)
    file.save(tmp_path / "a.engine")
    assert node_table.nodes(bridge.load(tmp_path / "a.engine").file) == node_table.nodes(file)


class Watched:
    """NodeLayers over a real network, to which functions add layers as converters do."""

    def __init__(self, seeded=()):
        found = flavour.detect()
        _, self.network = build.create_network(found)
        trt = found.trt()
        self.x = self.network.add_input("x", trt.float32, (2, 3))
        for name in seeded:
            self.add(name)
        self.graph = torch.fx.Graph()
        self.plugins = {}
        self.nodes = [self.graph.create_node("call_function", torch.ops.aten.add.Tensor, name=name) for name in "abc"]
        self.node_layers = NodeLayers(self.graph, self.network, self.plugins)

    def add(self, name):
        layer = self.network.add_identity(self.x)
        layer.name = name
        return layer

    def finish(self, *layers):
        """Names of the layers of each node, where the network's outputs depend on `layers`."""
        for layer in layers:
            self.network.mark_output(layer.get_output(0))
        return {node["name"]: node["layers"] for node in self.node_layers.nodes()}


@compiles
def test_layers_that_no_output_needs_are_left_out():
    watched = Watched()
    a, b, c = watched.nodes
    with watched.node_layers.recording(a):
        kept = watched.add("kept")
        watched.add("dropped")
    with watched.node_layers.recording(b):
        pass
    with watched.node_layers.recording(c):
        also = watched.add("also")
    assert watched.finish(kept, also) == {"a": ["kept"], "b": [], "c": ["also"]}
    assert inventory.live(watched.network) == {0, 2}


@compiles
def test_a_plugin_layer_that_was_seeded_is_of_the_node_that_uses_it():
    watched = Watched(seeded=["zeros", "plugin"])
    seeded = watched.network.get_layer(1)
    with watched.node_layers.recording(watched.nodes[0]):
        watched.plugins["plugin"] = SimpleNamespace()
        cast = watched.add("cast")
    assert watched.finish(seeded, cast) == {"a": ["plugin", "cast"]}


@compiles
def test_a_plugin_layer_that_was_added_is_named_once():
    watched = Watched()
    with watched.node_layers.recording(watched.nodes[0]):
        layer = watched.add("plugin")
        watched.plugins["plugin"] = SimpleNamespace()
    assert watched.finish(layer) == {"a": ["plugin"]}


@compiles
def test_a_node_that_fails_is_not_recorded():
    watched = Watched()
    with pytest.raises(ValueError), watched.node_layers.recording(watched.nodes[0]):
        raise ValueError
    assert watched.finish(watched.add("x2")) == {}


def test_module_paths_are_the_models_in_every_capture():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4))])

        def forward(self, x):
            return self.layers[0](x) + bridge.relu(x)

    graphs = []

    def backend(module, inputs):
        graphs.append(module.graph)
        return module

    model = Outer().eval()
    torch.compile(model, backend=backend)(torch.randn(2, 4))
    graphs.append(torch.export.export(model, (torch.randn(2, 4),)).graph)
    for graph in graphs:
        paths = {str(node.target): module_path(node) for node in graph.nodes if node.op == "call_function"}
        assert paths.pop("bridge.relu.default") == ""
        assert "layers.0.0" in paths.values()
    graph = torch.fx.Graph()
    made = graph.placeholder("x")
    made.meta["nn_module_stack"] = {"_empty_nn_module_stack_from_metadata_hook": ("_empty_nn_module_stack_x", "")}
    assert module_path(made) == ""


def test_operators_are_spelt_as_people_write_them():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    nodes = [
        graph.call_function(torch.ops.aten.add.Tensor, (x, x)),
        graph.call_function(torch.ops.bridge.relu.default, (x,)),
        graph.call_function(torch.sym_max, (x, x)),
    ]
    assert [short_name(node) for node in (x, *nodes)] == [
        "placeholder",
        "aten.add.Tensor",
        "bridge.relu",
        "torch.sym_max",
    ]
