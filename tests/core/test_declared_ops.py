"""Ops that are declared or bound without a compiler: what is refused, and how installed ones are found."""

import inspect
import json
import subprocess
import sys
import warnings
from importlib.util import find_spec

import pytest
import torch
from own_ops import forgotten
from torch import Tensor, nn

import bridge
from bridge.core.op import OPS
from bridge.errors import LibraryError, OpDefinitionError, UnsupportedOpError

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def twice(x: Tensor) -> Tensor:
    """2 x."""
    return 2 * x


def half(x: Tensor, by: float = 2.0) -> Tensor:
    """x / by."""
    return x / by


def test_an_op_may_be_a_reference_alone():
    with forgotten(), warnings.catch_warnings():
        warnings.simplefilter("error")
        call = bridge.op("alone::twice")(twice)
        assert call(torch.ones(2)).tolist() == [2, 2]
        assert torch.ops.alone.twice(torch.ones(2, device="meta")).shape == (2,)
        assert OPS["alone::twice"].library.find("plugins") is None and not OPS["alone::twice"].has_cuda_kernel


@pytest.mark.gpu
def test_the_reference_runs_where_there_is_no_kernel():
    with forgotten():
        call = bridge.op("slow::twice")(twice)
        with pytest.warns(UserWarning, match=r"slow::twice has no kernel here, .* libslow_torch\.so is not"):
            assert call(torch.ones(2, device="cuda")).tolist() == [2, 2]


def test_a_broken_library_names_itself_and_stops_only_what_uses_it(tmp_path, monkeypatch):
    (tmp_path / "libbroken_plugins.so").write_bytes(b"\x7fELF but no more")
    monkeypatch.setenv("BROKEN_LIBRARY_DIR", str(tmp_path))
    with forgotten():
        with pytest.warns(UserWarning, match="broken: .*libbroken_plugins.so does not load"):
            call = bridge.op("broken::twice")(twice)
        assert call(torch.ones(2)).tolist() == [2, 2]
        with pytest.raises(LibraryError, match="does not load"):
            OPS["broken::twice"].library.plugins()


def test_a_broken_library_does_not_stop_what_binds_to_it(tmp_path, monkeypatch):
    (tmp_path / "libfaulty_plugins.so").write_bytes(b"no ELF")
    monkeypatch.setenv("FAULTY_LIBRARY_DIR", str(tmp_path))
    torch.library.define("faulty::f", "(Tensor x) -> Tensor")
    with forgotten(), pytest.warns(UserWarning, match="faulty: .* does not load"):
        assert "does not load" in bridge.bind("faulty::f").library.problem_of("f")


class Twice(nn.Module):
    def forward(self, x):
        return torch.ops.stopped.twice(x)


@needs_torch_tensorrt
def test_models_that_use_a_broken_library_are_refused_with_its_problem(tmp_path, monkeypatch):
    (tmp_path / "libstopped_plugins.so").write_bytes(b"\x7fELF but no more")
    monkeypatch.setenv("STOPPED_LIBRARY_DIR", str(tmp_path))
    with forgotten(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.op("stopped::twice")(twice)
        with pytest.raises(UnsupportedOpError, match=r"stopped.*its native library cannot be used: .*does not load"):
            bridge.compile(Twice().eval(), (torch.ones(3),), target="sm86")


@pytest.mark.parametrize("name", ["twice", "Acme::twice", "acme::", "::twice", "acme::a b", "acme::twice::more"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(OpDefinitionError, match="expected a name with a namespace"):
        bridge.op(name)(twice)


def test_an_op_outside_bridge_needs_a_namespace():
    with pytest.raises(OpDefinitionError, match=r'write @bridge\.op\("<namespace>::twice"\)'):
        bridge.op(twice)


def test_a_name_that_torch_has_is_taken():
    torch.library.define("occupied::twice", "(Tensor x) -> Tensor")
    with forgotten(), pytest.raises(OpDefinitionError, match="op occupied::twice: torch does not take twice"):
        bridge.op("occupied::twice")(twice)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("(Tensor(a!) x) -> ()", "argument x: the operator writes into it"),
        ("(Tensor[] x) -> Tensor", r"argument x: is List\[Tensor\], expected Tensor, "),
        ("(int n, Tensor x) -> Tensor", "argument x: tensors come before attributes"),
        ("(Tensor x, Device d) -> Tensor", "argument d: is Device, expected"),
        ("(Tensor x) -> int", "returns int, expected tensors"),
        ("(Tensor x) -> ()", "returns nothing, expected tensors"),
    ],
)
def test_operators_that_no_plugin_can_be_are_not_bound(schema, text):
    name = f"unfit::f{abs(hash(schema))}"
    torch.library.define(name, schema)
    with forgotten(), pytest.raises(OpDefinitionError, match=text):
        bridge.bind(name)


def test_what_is_bound_exists_and_is_bound_once():
    with pytest.raises(OpDefinitionError, match="torch has no operator nowhere::f: import what defines it"):
        bridge.bind("nowhere::f")
    with pytest.raises(OpDefinitionError, match=r"relu is an op already, defined in .*relu\.py"):
        bridge.bind("bridge::relu")
    with pytest.raises(OpDefinitionError, match="is an overload"):
        bridge.bind(torch.ops.aten.add.Scalar)


def test_a_bound_operator_keeps_its_signature():
    schema = "(Tensor x, Tensor? y, int[2] a, SymInt b=3, float c=0.5, *, bool d=True, str e='s') -> (Tensor, Tensor)"
    torch.library.define("shaped::f", schema)
    with forgotten():
        op = bridge.bind("shaped::f")
        assert (op.tensors, op.optional, op.num_outputs) == (["x", "y"], {"y"}, 2)
        types = [(each.name, each.type, each.default) for each in op.attributes]
        assert types[:3] == [("a", "int[2]", None), ("b", "int", 3), ("c", "float", 0.5)]
        assert types[3:] == [("d", "bool", True), ("e", "str", "s")]
        assert op.bind(("x", None, [1, 2]), {"e": "t"})[1] == {"a": (1, 2), "b": 3, "c": 0.5, "d": True, "e": "t"}
        assert op.matches(
            "f(Tensor x, Tensor? y=None, int[2] a=[7, 7], int b=1, float c=1, bool d=False, str e='') -> "
            "(Tensor, Tensor)"
        )
        assert not op.matches("f(Tensor x, Tensor? y=None, int[2] a=[7, 7]) -> (Tensor, Tensor)")


def test_installed_packages_are_found_by_their_entry_points(tmp_path):
    """In a process of its own: what imports is a library, what does not is named, and stops nothing."""
    good = '@bridge.op("good::twice")\ndef twice(x: Tensor) -> Tensor:\n    return 2 * x\n'
    for name, text in {
        "acme_good": f"import bridge\nfrom torch import Tensor\n{good}",
        "acme_bad": 'raise ValueError("half written")\n',
        "acme_empty": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    points = "[bridge.ops]\ngood = acme_good\nbad = acme_bad\nempty = acme_empty\n"
    info = tmp_path / "acme_all-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-all\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(points)
    (info / "top_level.txt").write_text("acme_good\nacme_bad\nacme_empty\n")
    code = inspect.cleandoc(
        """
        import json, sys, warnings
        warnings.simplefilter("ignore")
        sys.path.insert(0, sys.argv[1])
        import bridge
        from bridge.cli import library_table, op_table
        from bridge.core import libraries
        table = library_table.states()
        names = [row["name"] for row in op_table.rows()]
        try:
            libraries.library("bad")
        except bridge.errors.LibraryError as error:
            raised = str(error)
        print(json.dumps([table, names, libraries.LIBRARIES["good"].origin, raised]))
        """
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table, names, origin, raised = json.loads(done.stdout.splitlines()[-1])
    assert "good::twice" in names and "relu" in names and origin == "acme-all 1.2"
    assert "libgood_plugins.so is not in" in table["libgood_plugins.so"]["state"]
    assert table["bad"]["state"].startswith("ValueError: half written")
    assert "defines no op of the namespace empty" in table["empty"]["state"]
    assert "the library bad does not import: ValueError: half written" in raised
