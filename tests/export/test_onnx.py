"""Models as ONNX files: their plugin nodes, their names, what imports them and what they compute."""

import collections
import errno
import re
from pathlib import Path

import compile_models
import onnx
import onnx_files
import pytest
import torch
import torchvision
from oracle import ahead, interpreted
from torch import nn
from torch.export import Dim

import bridge
from bridge import cli
from bridge.errors import BuildError, EngineFileError, ExportError, UnsupportedOpError
from bridge.export.onnx import saving
from bridge.export.onnx.import_check import check_import
from bridge.export.onnx.translate import untranslated
from bridge.tensorrt.install.flavour import detect

pytest.importorskip("onnxscript")
BATCH = Dim("batch", min=1, max=8)
# (model, dtype, tolerance of the file on a CPU as a fraction of the largest element)
MODELS = {
    "attention": (compile_models.Attention, torch.float16, 5e-3),
    "blocks": (compile_models.Blocks, torch.float32, 1e-5),
    "deformable": (compile_models.Deformable, torch.bfloat16, 3e-2),
    "multiscale": (compile_models.MultiScale, torch.float32, 1e-5),
}
LINEAR, ROW = nn.Linear(4, 3).eval(), torch.randn(2, 4)


def export(model, args, path, **settings):
    return bridge.export_onnx(model, args, path=path, target="sm86", **settings)


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """(model, its arguments and dynamic shapes, the file, its tolerance)."""
    torch.manual_seed(0)
    build, dtype, tolerance = MODELS[request.param]
    model, (args, shapes) = build().to(dtype).eval(), build.example(dtype)
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    return model, args, shapes, export(model, args, path, dynamic_shapes=shapes), tolerance


def test_plugin_nodes_are_the_plugin_layers_of_the_other_doors(exported):
    model, args, shapes, file, _ = exported
    with interpreted():
        compiled = ahead(model, args, shapes)
    assert onnx_files.plugin_nodes(file.path) == onnx_files.plugin_layers(compiled.file)
    assert file.plugins == compiled.plugin_counts()


@pytest.mark.parametrize("exported", ["deformable"], indirect=True)
def test_an_engine_of_the_imported_file(exported):
    """It holds the plugins, and their fields, that bridge.compile's holds."""
    model, args, shapes, file, _ = exported
    plan = onnx_files.Imported(file).engine()
    with interpreted(engines=True):
        compiled = ahead(model, args, shapes, optimization_level=0, tuned_profile=False)
    for field in (b"allow_tf32", b"weight="):
        assert plan.count(field) == compiled.engine.count(field) >= 2


def test_the_file_computes_what_the_model_does(exported):
    model, args, _, file, tolerance = exported
    onnx_files.assert_equal_to(model, file.path, args, tolerance)
    rest = [torch.cat([arg, arg[:1]]) for arg in args]  # another batch
    onnx_files.assert_equal_to(model, file.path, rest, tolerance)


def test_the_file_is_valid_and_tensorrt_imports_it_as_it_is(exported):
    *_, file, _ = exported
    onnx.checker.check_model(onnx.load(file.path), full_check=True)
    assert len(onnx_files.Imported(file).plugins) == sum(file.plugins.values())


def test_names_and_dimensions(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.ones(4))

        def forward(self, input, pair, *, scale=2, other=None):
            total = bridge.relu(input * scale + pair[0]) + self.logits
            return {"logits": total, "again": total, "input": input, "rest": [None, 3, other["z"].flatten(1)]}

    rows, side = Dim("rows", max=9), Dim("side", min=1, max=5)
    args, kwargs = (torch.randn(3, 4), (torch.randn(3, 4), None)), {"other": {"z": torch.randn(3, 2, 4)}}
    shapes = {"input": {0: rows}, "pair": ({0: rows}, None), "scale": None, "other": {"z": (rows, None, 2 * side)}}
    kwargs |= {"scale": 2}
    model = Model().eval()
    file = export(model, args, tmp_path / "net.onnx", kwargs=kwargs, dynamic_shapes=shapes)
    graph = onnx.load(file.path).graph
    dims = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in [*graph.input, *graph.output]
    }
    assert dims == {
        "input": ["rows", 4],
        "pair_0": ["rows", 4],
        "other_z": ["rows", 2, "2*side"],
        "logits": ["rows", 4],
        "again": ["rows", 4],
        "input_output": ["rows", 4],
        "rest_2": ["rows", "4*side"],
    }
    onnx_files.assert_equal_to(model, file.path, args, **kwargs)
    assert "--maxShapes=input:9x4,pair_0:9x4,other_z:9x2x10 " in file.trtexec()


def test_operators_of_torchvision_and_results_that_count(tmp_path):
    class Head(nn.Module):
        def forward(self, x, boxes, scores):
            kept = torchvision.ops.nms(boxes, scores, 0.3)
            regions = torch.cat((boxes.new_zeros(len(boxes), 1), boxes), 1)
            return boxes[kept], torchvision.ops.roi_align(x, regions, (2, 2))

    corners = torch.rand(9, 2) * 8
    args = torch.randn(1, 2, 16, 16), torch.cat((corners, corners + 1 + torch.rand(9, 2) * 6), 1), torch.rand(9)
    boxes = Dim("boxes", min=2, max=32)
    shapes = {"x": None, "boxes": {0: boxes}, "scores": {0: boxes}}
    file = export(Head().eval(), args, tmp_path / "head.onnx", dynamic_shapes=shapes)
    assert file.plugins == {"nms": 1, "roi_align": 1}
    onnx_files.assert_equal_to(Head(), file.path, args)


def test_an_op_without_its_plugin(tmp_path):
    class Model(nn.Module):
        def forward(self, x):
            return torch.gather(bridge.relu(x, 0.1, 6.0), 1, (x > 0).long() * 99)

    x = 4 * torch.randn(2, 100)
    file = export(Model().eval(), (x,), tmp_path / "net.onnx", lowering={"relu": "native"})
    assert not file.plugins and not file.libraries and not onnx_files.plugin_nodes(file.path)
    onnx_files.assert_equal_to(Model(), file.path, (x,))


def test_weights_that_are_too_large_for_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "LARGEST", 16)
    file = export(LINEAR, (ROW,), tmp_path / "net.onnx")
    assert [path.name for path in file.files] == ["net.onnx", "net.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    onnx_files.assert_equal_to(LINEAR, file.path, (ROW,))
    monkeypatch.undo()
    with pytest.raises(EngineFileError, match=r"net\.onnx\.data is there already"):
        (tmp_path / "net.onnx").unlink()
        export(LINEAR, (ROW,), tmp_path / "net.onnx")
    export(LINEAR, (ROW,), tmp_path / "net.onnx", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_operators_that_onnx_has_nothing_for(tmp_path):
    class Model(nn.Module):
        def forward(self, x):
            values = torch.linalg.svd(x)[1]
            return torch.special.i1(values)

    with pytest.raises(UnsupportedOpError) as raised:
        export(Model().eval(), (ROW,), tmp_path / "net.onnx")
    text = str(raised.value)
    assert "nothing for 2 of the model's operators" in text and "generate=True" in text
    for operator, line in (("aten.linalg_svd.default", "values = "), ("aten.special_i1.default", "return torch")):
        assert re.search(rf"{re.escape(operator)}: .*\n +.*test_onnx\.py:\d+ in forward: {line}", text)
    assert not list(tmp_path.iterdir())


def test_the_models_own_operators_are_those_to_generate():
    """Here torch.onnx makes prims.lgamma of one; `make onnx` has plugins generated."""

    class Model(nn.Module):
        def forward(self, x):
            return torch.lgamma(x.abs() + 1)

    assert untranslated(torch.export.export(Model(), (ROW,))) == {torch.ops.aten.lgamma.default}


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def save(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "staged", save)
    with pytest.raises(EngineFileError, match=r"cannot write .*net\.onnx: No space left"):
        export(LINEAR, (ROW,), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_the_parser_refuses_has_the_models_line(tmp_path):
    class Model(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x).real

    with pytest.raises(BuildError, match=r"(?s)does not import the model:.*test_onnx\.py:\d+ in forward: return torch"):
        export(Model().eval(), (ROW,), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_an_op_called_like_an_operator_of_onnx(tmp_path):
    node = onnx.helper.make_node("Softmax", ["x"], ["y"], domain="acme", plugin_namespace="acme", plugin_version="1")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "net", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid(*pair) for pair in (("", 22), ("acme", 1))]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "net.onnx")
    with pytest.raises(BuildError, match=r"made 0 plugin layers of 1 nodes \(acme::Softmax\)"):
        check_import(detect(), tmp_path / "net.onnx", [], collections.Counter({"acme::Softmax": 1}))


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + self.calls


class Rows(nn.Module):
    def forward(self, x):
        return x, x.shape[0]


class Branch(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (nn.Dropout().train(), ExportError, "in training mode"),
        (Counter().eval(), ExportError, "writes to 'calls'"),
        (Rows().eval(), ExportError, "returns output1, a number"),
        (Branch().eval(), UnsupportedOpError, "torch.cond runs one of two functions"),
        (nn.Linear(4, 3).double().eval(), ExportError, "float64"),
    ],
    ids=["training", "writes", "number", "branch", "double"],
)
def test_models_that_are_refused(tmp_path, model, error, text):
    dtype = next((each.dtype for each in model.parameters()), torch.float32)
    with pytest.raises(error, match=text):
        export(model, (ROW.to(dtype),), tmp_path / "net.onnx", dynamic_shapes=({0: BATCH},))


@pytest.mark.parametrize(
    ("path", "text"),
    [("", "names a folder"), (".", "names a folder"), ("gone/net.onnx", "no folder"), ("old", "already")],
)
def test_paths_that_cannot_be_written(tmp_path, monkeypatch, path, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").write_text("mine")
    with pytest.raises(EngineFileError, match=text):
        export(LINEAR, (ROW,), path)
    assert (tmp_path / "old").read_text() == "mine"


MODEL_FILE = """import torch, bridge

class Net(torch.nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return bridge.relu(x, self.slope)

def bridge_model(argv):
    return Net(float(argv[0])).eval(), (torch.randn(2, 3),)
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL_FILE)
    assert cli.main(["export", "net.py", "--to", "onnx", "-o", "net.onnx", "--target", "sm86", "--", "0.25"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"plugin nodes +1 relu\nplugin library +.*libbridge_plugins.so\ntrtexec +--onnx=net.onnx", printed)
    (node,) = onnx_files.plugin_nodes(Path("net.onnx"))
    assert node["attributes"]["negative_slope"] == "0.25"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["net.engine", "--to", "onnx", "-o", "net.onnx"], 5, "an ONNX file is made from the model"),
        (["net.py", "--to", "onnx", "-o", "gone/net.onnx"], 5, "there is no folder gone"),
        (["net.engine", "-o", "net", "--target", "sm86"], 2, "--target is for --to onnx"),
    ],
)
def test_a_command_that_is_wrong(tmp_path, monkeypatch, capsys, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL_FILE)
    assert cli.main(["export", *arguments, *(["--", "0"] if "onnx" in arguments else [])]) == code
    assert text in capsys.readouterr().err
