"""What `bridge explain` says of nodes and layers, and the log of a conversion."""

import json

import pytest
from generated_row import GENERATED

from bridge import cli
from bridge.engine import node_table
from bridge.engine.explain import as_json_values, explain
from bridge.tensorrt.network import node_layers

NODES = [
    {"name": "fc_weight", "op": "get_attr", "module": "body.0.fc", "layers": []},
    {"name": "x", "op": "placeholder", "module": "", "layers": []},
    {"name": "relu", "op": "bridge.relu", "module": "body.0", "layers": ["relu_1"]},
    {"name": "clone", "op": "aten.clone", "module": "body.1", "layers": []},
    {"name": "output", "op": "output", "module": "", "layers": ["cast_2"]},
]


@pytest.fixture
def file(make_engine_file):
    """An engine file that knows its nodes."""
    return make_engine_file(metadata={"nodes": NODES})


def test_nodes_as_a_table(file):
    lines = explain(file, nodes=True).splitlines()
    at = lines.index("nodes: 3  operator     module  layers")
    assert lines[at + 1 : at + 4] == [
        "  relu    bridge.relu  body.0  plugin relu",
        "  clone   aten.clone   body.1  no layer",
        "  output  output               CAST",
    ]
    at = lines.index("modules: 3            nodes  layers  plugin layers")
    assert lines[at + 1 : at + 4] == [
        "  body.0                  1       1              1",
        "  body.1                  1       0              0",
        "  (the model itself)      1       1              0",
    ]


def test_nodes_are_not_listed_unless_asked_for(file):
    assert "nodes:" not in explain(file) and "modules:" not in explain(file)


def test_several_layers_of_a_node_are_counted_by_type(make_engine_file):
    layers = [{"name": str(index), "type": kind} for index, kind in enumerate(["SHAPE", "CAST", "SHAPE", "GATHER"])]
    node = {"name": "n", "op": "aten.view", "module": "a", "layers": ["0", "1", "2", "3"]}
    text = explain(make_engine_file(layers=layers, metadata={"nodes": [node]}), nodes=True)
    assert "  n       aten.view  a       2 SHAPE, CAST, GATHER" in text.splitlines()


def test_layers_say_which_node_they_are_of(file):
    lines = explain(file, every_layer=True).splitlines()
    assert "  plugin relu  float16 [?, 3, ?]   of relu    relu_1" in lines
    assert "  CAST         bfloat16 [?, 3, ?]  of output  cast_2" in lines


@pytest.mark.parametrize(
    ("modules", "shown"),
    [
        ([f"layers.{i}.mlp.{part}" for i in range(30) for part in "abc"], [f"layers.{i}.mlp" for i in range(30)]),
        ([f"layers.{i}.mlp" for i in range(41)] + ["head"], ["layers", "head"]),
        ([f"block{i}" for i in range(41)], [f"block{i}" for i in range(41)]),
        (["", "a.b.c", "a"], ["(the model itself)", "a.b.c", "a"]),
    ],
)
def test_modules_are_as_deep_as_fits(make_engine_file, modules, shown):
    nodes = [{"name": str(i), "op": "aten.add.Tensor", "module": path, "layers": []} for i, path in enumerate(modules)]
    file = make_engine_file(metadata={"nodes": nodes})
    lines = explain(file, nodes=True).splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("modules: "))
    found = [line.rsplit(maxsplit=3)[0].strip() for line in lines[at + 1 : lines.index("", at)]]
    assert found == shown
    assert sum(row["nodes"] for row in node_table.modules(file)) == len(modules)


def test_a_file_of_an_older_bridge_says_so(make_engine_file):
    old = make_engine_file()
    assert "nodes: this file does not say which node became which layers; compile the model again" in explain(
        old, nodes=True
    )
    assert "modules:" not in explain(old, nodes=True)
    assert as_json_values(old)["nodes"] is None and as_json_values(old)["modules"] == []


@pytest.mark.parametrize("key", ["dtype", "shape"])
def test_an_input_of_a_generated_plugin_may_lack_what_is_none(make_engine_file, key):
    absent = {"name": "bias", "dtype": None, "shape": None}
    del absent[key]
    file = make_engine_file(metadata={"generated": [GENERATED | {"inputs": [absent]}]})
    lines = [line.split() for line in explain(file, every_layer=True).splitlines()]
    assert ["input", "bias", "absent"] in lines


def test_the_command(file, tmp_path, capsys):
    path = str(tmp_path / "a.engine")
    file.save(path)
    assert cli.main(["explain", path, "--nodes"]) == 0
    assert capsys.readouterr().out == explain(file, nodes=True) + "\n"
    assert cli.main(["explain", path, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["nodes"] == NODES
    assert shown["modules"][0] == {"module": "body.0", "nodes": 1, "layers": 1, "plugin_layers": 1}


def test_debug_lines_name_module_and_layers(caplog):
    with caplog.at_level("DEBUG", "bridge"):
        node_layers.log_nodes(NODES, {})
    assert "node relu, bridge.relu in body.0: relu_1" in caplog.messages
    assert "node clone, aten.clone in body.1: no layer" in caplog.messages
