"""A written model repository fits the engine; what cannot be served is refused."""

import re
from dataclasses import replace

import pytest
from torch.utils._pytree import tree_structure

from bridge.engine_file import pytrees
from bridge.engine_file.contents import EngineFile, OutputSpec, TensorSpec
from bridge.errors import EngineError
from bridge.export import manifest
from bridge.export.formats import export
from bridge.export.libraries import PluginLibrary
from bridge.export.options import Options
from bridge.export.triton import batches, config, repository, tensors, text_format
from bridge.generate.folders import DESCRIPTION

ACME = {"namespace": "acme", "file": "libacme_plugins.so", "sha256": "0" * 64, "origin": "acme-corr 0.1.0"}
BATCH = {"x": ["s0", 3], "y": ["s0", "s1"]}


@pytest.fixture
def make_file(make_engine_file):
    """An engine file without plugins: x [1…8, 3] float32 → y [-1, -1] bfloat16, whose extents may be given."""

    def make(extents=None, **changes):
        values = {
            "plugins": {},
            "inputs": (TensorSpec("x", "float32", (1, 3), (4, 3), (8, 3)),),
            "outputs": (OutputSpec("y", "bfloat16", (-1, -1)),),
            "output_map": [0],
            "metadata": {"model": "Net", "bridge": "0.1.0", "extents": BATCH if extents is None else extents},
        }
        return make_engine_file(**values | changes)

    return make


def test_an_engine_of_standard_tensorrt_is_the_servers(make_file, tmp_path):
    file = make_file(flavour="tensorrt", tensorrt_version="10.15.1.29")
    options = Options("net", instances=2, dynamic_batching=True)
    paths = export(file, tmp_path / "models", "triton", options=options)
    assert {str(path.relative_to(tmp_path / "models")) for path in paths} == {
        "README.md",
        "net/config.pbtxt",
        *(f"net/1/{name}" for name in ("model.plan", "manifest.json", "README.md")),
    }
    assert (tmp_path / "models/net/1/model.plan").read_bytes() == file.engine
    assert (
        (tmp_path / "models/net/config.pbtxt").read_text()
        == """\
name: "net"
platform: "tensorrt_plan"
max_batch_size: 8
input {
  name: "x"
  data_type: TYPE_FP32
  dims: [3]
}
output {
  name: "y"
  data_type: TYPE_BF16
  dims: [-1]
}
instance_group {
  count: 2
  kind: KIND_GPU
}
dynamic_batching {
}
"""
    )


def test_plugin_libraries_are_there_and_in_the_start_command(make_file, tmp_path):
    file = make_file(flavour="tensorrt", plugins={"relu": "1"})
    export(file, tmp_path / "models", "triton", options=Options("net"))
    page = (tmp_path / "models/README.md").read_text()
    assert '--backend-config="tensorrt,plugins=$PWD/net/1/plugins/libbridge_autoload.so"' in page
    assert (tmp_path / "models/net/1/plugins/libbridge_autoload.so").exists() and str(tmp_path) not in page
    assert manifest.read(tmp_path / "models/net/1")["autoload"]["file"] == "plugins/libbridge_autoload.so"


def test_an_engine_of_tensorrt_rtx_is_run_by_bridge(make_file, tmp_path):
    file = make_file(metadata={"model": "Net", "bridge": "0.1.0", "libraries": [ACME]})
    export(file, tmp_path / "models", "triton", options=Options("net"))
    assert {path.name for path in (tmp_path / "models/net/1").iterdir()} == {
        "model.engine",
        "model.py",
        "manifest.json",
    }
    assert EngineFile.load(tmp_path / "models/net/1/model.engine") == file
    page = (tmp_path / "models/README.md").read_text()
    assert "pip install bridge-tensorrt==0.1.0 tensorrt-rtx==1.7.1.116 acme-corr==0.1.0\n" in page


def test_tensors_without_dimensions_are_bridges_alone(make_file, tmp_path):
    file = make_file(outputs=(OutputSpec("y", "int64", ()),), extents={"x": ["s0", 3], "y": []})
    assert "dims: [1]\n}" in config.config(file, Options())
    with pytest.raises(EngineError, match="no tensors without dimensions, such as y: give it one of extent 1"):
        export(replace(file, flavour="tensorrt"), tmp_path / "models", "triton")


def test_generated_libraries_go_with_the_engine(make_file, tmp_path, monkeypatch):
    """Each with its description, in a folder of its own, as BRIDGE_GENERATED_PATH takes them."""
    found = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / DESCRIPTION).write_text(name)
        (folder / "liblab_plugins.so").write_text(f"library of {name}")
        (folder / "compared.json").touch()
        found.append(
            PluginLibrary("lab", folder / "liblab_plugins.so", "0" * 64, ("op",), "generated", f"lib{name}.so")
        )
    monkeypatch.setattr(repository, "libraries_of", lambda file: found)
    generated_from = {"namespace": "lab", "origin": "generated from lab::op", "file": "f", "sha256": "0"}
    file = make_file(metadata={"model": "Net", "bridge": "0.1.0", "libraries": [generated_from]})
    export(file, tmp_path / "models", "triton", options=Options("net"))
    folders = sorted((tmp_path / "models/net/1/generated").iterdir())
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [
        ["liblab_plugins.so", DESCRIPTION]
    ] * 2
    assert [(folder / DESCRIPTION).read_text() for folder in folders] == ["first", "second"]
    assert "tensorrt-rtx==1.7.1.116\n" in (tmp_path / "models/README.md").read_text()


@pytest.mark.parametrize(
    ("extents", "reason"),
    [
        (BATCH, None),
        ({}, "does not say which extents of x, y are equal"),
        ({"x": [4, 3], "y": [4, "s1"]}, "the first dimension of x is 4, which is no dynamic extent of its own"),
        ({"x": ["s0", 3], "y": []}, "the first dimension of y is no extent"),
        ({"x": ["s0", 3], "y": ["2*s0", 3]}, r"the first dimension of y is 2\*s0"),
        ({"x": ["s0", 3], "y": ["s1", 3]}, "the first dimensions of x and y are different extents"),
        ({"x": ["s0", 3], "y": ["s0", "s0"]}, "y has the extent of its first dimension in another one"),
        ({"x": ["s0", 3], "y": ["s0", "3*s0 + 1"]}, "y has the extent of its first dimension in another one"),
        ({"x": ["s1", 3], "y": ["s1", "s10"]}, None),
    ],
)
def test_requests_are_joined_along_one_extent_alone(make_file, tmp_path, extents, reason):
    file, options = make_file(extents), Options(dynamic_batching=True)
    if reason is None:
        assert batches.refusal(file) is None
        assert "dynamic_batching" in config.config(file, options)
        return
    assert "max_batch_size: 0\n" in config.config(file, Options())
    with pytest.raises(EngineError, match=rf"cannot join requests to this engine: .*{reason}.*; compile the model"):
        export(file, tmp_path / "models", "triton", options=options)
    assert not list(tmp_path.iterdir())


def test_shapes_that_the_server_has_no_words_for(make_file):
    """A tensor without dimensions, or with rows alone, has one of extent 1 to clients; an extent of 0 varies."""
    file = make_file(
        extents={"x": ["s0"], "y": ["s0", 0]},
        inputs=(TensorSpec("x", "int64", (1,), (4,), (8,)),),
        outputs=(OutputSpec("y", "bool", (-1, 0)),),
    )
    text = config.config(file, Options(warm_up=True))
    assert "dims: [1]\n  reshape {\n    shape: []\n  }\n" in text and "dims: [-1]\n" in text
    assert (
        'batch_size: 4\n  inputs {\n    key: "x"\n    value {\n      data_type: TYPE_INT64\n      dims: [1]\n' in text
    )


@pytest.mark.parametrize(
    ("options", "counts"),
    [(Options(warm_up=True), [4]), (Options(warm_up=True, dynamic_batching=True), [1, 2, 3, 4, 6, 8])],
)
def test_every_size_of_a_batch_is_warmed_up(make_file, options, counts):
    file = make_file(
        extents={"x": ["s0"], "y": ["s0"]},
        inputs=(TensorSpec("x", "int64", (1,), (4,), (8,)),),
        outputs=(OutputSpec("y", "bool", (-1,)),),
    )
    text = config.config(file, options)
    assert re.findall(r'name: "tuned shapes, (\d+) rows"\n  batch_size: \1\n', text) == [str(n) for n in counts]


def test_every_leaf_of_a_result_has_a_name(make_file):
    result = {"y": 0, "again": 0, "x": 0, "more": (0, 0), "n": 0, "text": 0, "none": 0}
    leaves = [0, 0, {"input": 0}, 0, {"literal": True}, {"literal": 7}, {"literal": "cat"}, {"literal": None}]
    file = make_file(out_spec=pytrees.of_spec(tree_structure(result)), output_map=leaves)
    named = {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors.results(file, rows=False)}
    varying = ("BF16", (-1, -1))
    assert named == {
        "y": varying,
        "again": varying,
        "x_output": ("FP32", (-1, 3)),
        "more_0": varying,
        "more_1": ("BOOL", (1,)),
        "n": ("INT64", (1,)),
    }
    with_rows = {tensor.name: tensor.shape for tensor in tensors.results(file, rows=True)}
    assert with_rows["n"] == (-1, 1)
    anonymous = replace(file, out_spec=pytrees.of_spec(tree_structure((0, 0))), output_map=[0, {"literal": 0.5}])
    assert [tensor.name for tensor in tensors.results(anonymous, rows=False)] == ["y", "output1"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "größe", "a b", "-a", "a\n"])
def test_names_that_no_model_has(make_file, tmp_path, name):
    with pytest.raises(ValueError, match="is no name of a model"):
        export(make_file(), tmp_path / "models", "triton", options=Options(name))
    repository.check_name("Net-1.5_b")


def test_text_format_quotes_what_is_text():
    message = {"a": 'x"\\é', "b": [], "c": [{"d": True}, {"d": text_format.Word("ON")}], "e": [1, -1]}
    assert text_format.text(message) == 'a: "x\\"\\\\é"\nb: []\nc {\n  d: true\n}\nc {\n  d: ON\n}\ne: [1, -1]\n'
