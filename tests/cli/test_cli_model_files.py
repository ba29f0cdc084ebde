"""bridge compile: flags that change what a model file returned, and programs that torch.export.save wrote."""

import json
import zipfile

import pytest
import torch
from command_runs import run

from bridge.cli.engines import example, shape_options
from bridge.doors import model_file
from bridge.doors.model_file import Model
from bridge.engine_file.contents import EngineFile
from bridge.errors import ExportError, UnknownNameError

TWO_INPUTS = """
import torch

class Add(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x, more):
        return (x + more["Y"]) * self.weight

def bridge_model(argv):
    return Add().eval(), (torch.ones(2, 4),), {"more": {"Y": torch.ones(2, 4)}}
"""


@pytest.fixture
def two_inputs(tmp_path):
    path = tmp_path / "add.py"
    path.write_text(TWO_INPUTS)
    return path


# --shapes, --dtype


class Takes(torch.nn.Module):
    def forward(self, x, *rest, scale=1, **more):
        return x


def test_shapes_replace_examples_and_dynamic_shapes():
    ids, mask = torch.tensor([[3, 1, 2]]), torch.ones(2, 2, dtype=torch.bool)
    given = Model(Takes(), (ids, mask), {"k": {"v": [torch.ones(0, 2)]}, "scale": 2}, {"x": {0: torch.export.Dim("n")}})
    shapes = shape_options.shapes("", 1, 3)("x:1x3/2x5/4x5,k_v_0:3x2")
    changed = example.in_shapes(given, shapes)
    assert changed.args[0].tolist() == [[3, 1, 2, 3, 1]] * 2 and changed.args[1] is mask
    assert torch.equal(changed.kwargs["k"]["v"][0], torch.zeros(3, 2)) and changed.kwargs["scale"] == 2
    ranges = changed.dynamic_shapes
    assert set(ranges["x"]) == {0, 1} and (ranges["x"][0].min, ranges["x"][0].max) == (1, 4)
    assert ranges["rest"] == (None,) and ranges["more"] == {"k": {"v": [None]}} and ranges["scale"] is None


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ("z:1", "the model has no input 'z'; it has x"),
        ("x:1x2x3", "--shapes gives input x the shape 1x2x3, of another rank than the model's example, 1x3"),
        ("x:3x3/2x3/4x3", "--shapes x:3x3/2x3/4x3 is not min/opt/max"),
        ("x:1/2x3/4x3", "--shapes x:1/2x3/4x3 is not min/opt/max"),
    ],
)
def test_shapes_that_do_not_fit(shapes, words):
    with pytest.raises(Exception, match="^" + words.replace("?", r"\?")):
        example.in_shapes(Model(Takes(), (torch.ones(1, 3),)), shape_options.shapes("", 1, 3)(shapes))


def test_arguments_that_the_model_does_not_take():
    class One(torch.nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(ExportError, match="One does not take its example arguments: too many positional arguments"):
        example.in_shapes(Model(One(), (torch.ones(1), torch.ones(1))), {})


def test_compile_with_shapes_dtype_plan_and_json(capsys, two_inputs, builder, tmp_path):
    output, plan = tmp_path / "add.engine", tmp_path / "add.plan"
    flags = ("--target", "sm86", "-q", "-o", output, "--plan", plan, "--json", "--dtype", "float16")
    shapes = ("--shapes", "x:2x4/3x4/9x4", "--shapes", "more_y:2x4/3x4/9x4")
    code, out, err = run(capsys, "compile", two_inputs, *flags, *shapes)
    assert (code, err) == (0, "")
    built, file = json.loads(out), EngineFile.load(output)
    assert plan.read_bytes() == file.engine and built["size"] == len(file.engine) and built["plan"] == str(plan)
    assert built["file"] == str(output) and built["target"] == "sm86" and built["parameters"] == 4
    assert [(each["dtype"], each["min"], each["opt"], each["max"]) for each in built["inputs"]] == [
        ("float16", [2, 4], [3, 4], [9, 4])
    ] * 2
    assert built["outputs"][0]["dtype"] == "float16" and built["plugins"] == {} and built["from_cache"] is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dtype", "float15"), "invalid choice: 'float15' (choose from"),
        (("--shapes", "x:1/2"), "'x:1/2' is not of the form x:1x3/4x3/16x3, which is min/opt/max, or x:4x3"),
        (("--plan", "none/a.plan"), "there is no folder none to save a.plan in"),
        (("--plan", "a", "-o", "./a"), "the engine file and the plan are both to be a"),
        (("--target", "sm33"), "does not build for sm33 here"),
        (("--target", "best"), "target 'best' is no compute capability"),
    ],
)
def test_flags_that_are_refused_before_the_model_is_loaded(capsys, tmp_path, builder, flags, words):
    path = tmp_path / "fails.py"
    path.write_text("raise AssertionError('it was loaded')")
    target = () if "--target" in flags else ("--target", "sm86")
    code, out, err = run(capsys, "compile", path, *flags, *target)
    assert (code, out) == (2, "") and words in err and err.startswith("usage: bridge compile [options] MODEL.py")


# .pt2


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x * 2

    path = tmp_path_factory.mktemp("program") / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=8)
    torch.export.save(torch.export.export(Net(), (torch.ones(2, 4),), dynamic_shapes={"x": {0: batch}}), path)
    return path


def test_a_program_of_a_file(capsys, program, builder, tmp_path):
    output = tmp_path / "net.engine"
    code, out, err = run(capsys, "compile", program, "--target", "sm86", "-q", "-o", output)
    assert (code, err) == (0, "") and "1, for sm86" in out
    assert EngineFile.load(output).inputs[0].max == (8, 4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dtype", "float16"), "--dtype changes a module and its examples; this is an ExportedProgram"),
        (("--shapes", "x:1x4"), "--shapes changes a module and its examples; this is an ExportedProgram"),
        (("--", "--width", "8"), "is an exported program, which takes no flags: --width 8"),
    ],
)
def test_flags_that_a_program_does_not_take(capsys, program, builder, flags, words):
    code, out, err = run(capsys, "compile", program, "--target", "sm86", "-q", *flags)
    assert (code, out) == (2, "") and words in err


def rewritten(source, path, change):
    """A copy of an archive with each file as change(name, content) has it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def of_another_torch(name, content):
    if not name.endswith("models/model.json"):
        return content
    model = json.loads(content)
    return json.dumps(model | {"torch_version": "1.2.3", "schema_version": {"major": 99, "minor": 1}})


def with_another_operator(name, content):
    return content.replace(b"aten.mul.Tensor", b"acme.mul.Tensor") if name.endswith("models/model.json") else content


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda program, path: path.write_bytes(b"no archive"),
            "it is damaged, or no file that torch.export.save wrote",
        ),
        (lambda program, path: path.write_bytes(program.read_bytes()[:-100]), "it is damaged, or no file that"),
        (lambda program, path: path.write_bytes(b""), "it is damaged, or no file that torch.export.save wrote"),
        (
            lambda program, path: rewritten(program, path, of_another_torch),
            f"torch 1.2.3 wrote it, and this is {torch.__version__}; export the model again with this torch",
        ),
        (
            lambda program, path: rewritten(program, path, with_another_operator),
            "it is damaged, or has operators that nothing here defines; install their package",
        ),
    ],
    ids=["no archive", "cut off", "empty", "another torch", "another operator"],
)
def test_programs_that_do_not_load(program, tmp_path, capfd, make, words):
    path = tmp_path / "bad.pt2"
    make(program, path)
    with pytest.raises(model_file.ModelFileError) as caught:
        model_file.load(str(path), [])
    assert f"{path} does not load: {words}" in str(caught.value) and "torch says: " in str(caught.value)
    assert capfd.readouterr() == ("", "")


# Files that are not there


def test_a_file_that_is_nearly_there(tmp_path):
    (tmp_path / "resnet.py").touch()
    with pytest.raises(UnknownNameError, match=r"no model file .*/resnett\.py\. Did you mean '.*/resnet\.py'\?"):
        model_file.load(f"{tmp_path}/resnett.py", [])
