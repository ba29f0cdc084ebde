"""Libraries of ops beside bridge's own: none is privileged, and each stands for itself.

Two of bridge's op structs are built into a library of another namespace. One of them is defined there by `@bridge.op`;
the other one is bound to an operator that exists already.
"""

import inspect
import json
import shutil
import subprocess
import sys
import types
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from compilers import environment, needs_compilers, tool
from oracle import ahead, interpreted, just_in_time
from own_ops import forgotten
from torch import Tensor, nn

import bridge
from bridge.core import libraries
from bridge.core.device_code import DeviceCode, device_codes, lacking_text
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.doors import torch_tensorrt_door as door
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineError, LibraryError, OpDefinitionError, TargetError, UnsupportedOpError
from bridge.tensorrt.install import flavour
from bridge.tensorrt.run.engine import check_compatible
from bridge.testing import check_op

ROOT = Path(__file__).parents[2]
CMAKE = """
cmake_minimum_required(VERSION 3.24)
project(moved LANGUAGES CXX)
find_package(bridge REQUIRED)
bridge_add_ops(moved SOURCES "{csrc}/ops/pointwise/relu.cu" "{csrc}/ops/detection/roi_align.cu"
               INCLUDE_DIRECTORIES "{csrc}")
"""

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def run(command):
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the library of plugins of the namespace "moved"."""
    folder = tmp_path_factory.mktemp("moved")
    (folder / "CMakeLists.txt").write_text(CMAKE.format(csrc=ROOT / "csrc"))
    settings = ["-DBRIDGE_TORCH=OFF", "-DBRIDGE_CUDA_ARCHITECTURES=86-real", f"-Dbridge_DIR={ROOT / 'csrc' / 'cmake'}"]
    ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    run([tool("cmake"), "-S", folder, "-B", folder / "build", "-G", "Ninja", ninja, *settings])
    run([tool("cmake"), "--build", folder / "build"])
    return folder / "build" / "lib"


@pytest.fixture(scope="module")
def moved(built):
    with forgotten(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVED_LIBRARY_DIR", str(built))
        bridge.op("moved::relu")(copy_of(OPS["relu"].reference))
        operator = torch.library.custom_op("moved::roi_align", mutates_args=())(_like_bridges_roi_align)
        operator.register_fake(lambda x, rois, size, *rest, **more: x.new_empty((rois.shape[0], x.shape[1], *size)))
        bridge.bind(torch.ops.moved.roi_align)
        yield LIBRARIES["moved"]


def copy_of(function):
    """The same function, defined in this module."""
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copy.__annotations__, copy.__doc__, copy.__module__ = function.__annotations__, function.__doc__, __name__
    return copy


def _like_bridges_roi_align(
    x: Tensor,
    rois: Tensor,
    output_size: list[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    return OPS["roi_align"].reference(x, rois, tuple(output_size), spatial_scale, sampling_ratio, aligned).clone()


class Both(nn.Module):
    """An op of bridge's, the same op of another library, and an operator that is bound."""

    def forward(self, x, rois):
        pooled = torch.ops.moved.roi_align(torch.ops.moved.relu(x, 0.25), rois, [2, 3], 0.5)
        return bridge.relu(pooled, 0.5) + pooled.mean()


ARGS = torch.randn(2, 4, 9, 8), torch.tensor([[0.0, 1, 1, 9, 9], [1.0, 0, 2, 7, 5], [1.0, 3, 3, 4, 4]])
COUNTS = {"relu": 1, "moved::relu": 1, "moved::roi_align": 1}


@needs_compilers
def test_an_op_of_bridges_own_moves_to_another_library(moved):
    assert sorted(moved.ops) == ["relu", "roi_align"] and not moved.problems
    assert OPS["moved::relu"].library is moved and OPS["bridge::relu"] is OPS["relu"]
    assert moved.plugins().path.name == "libmoved_plugins.so"
    check_op(OPS["moved::relu"], torch.randn(3, 5), 0.1, max_value=0.5)


@needs_compilers
@needs_torch_tensorrt
def test_one_engine_holds_plugins_of_two_libraries_at_every_door(moved):
    model = Both().eval()
    with interpreted():
        compiled = ahead(model, ARGS)
        assert compiled.plugin_counts() == COUNTS
        torch.testing.assert_close(compiled(*ARGS), model(*ARGS))
        torch.testing.assert_close(just_in_time(model)(*ARGS), model(*ARGS))


@needs_compilers
@needs_torch_tensorrt
def test_the_engine_file_names_the_libraries_it_needs(moved, tmp_path, monkeypatch):
    compiled = bridge.compile(Both().eval(), ARGS, target="sm86", cache=False)
    rows = {row["namespace"]: row for row in compiled.file.metadata["libraries"]}
    assert sorted(rows) == ["bridge", "moved"]
    assert rows["moved"]["file"] == "libmoved_plugins.so" and len(rows["moved"]["sha256"]) == 64
    assert rows["bridge"]["origin"].startswith("bridge-tensorrt ")
    compiled.save(tmp_path / "both.engine")
    file = EngineFile.load(tmp_path / "both.engine")
    here = flavour.detect()
    check_compatible(file, here)
    monkeypatch.delitem(LIBRARIES, "moved")
    with pytest.raises(EngineError, match=r"the plugin moved::\w+ of .*libmoved_plugins\.so, SHA-256 .*there is no"):
        check_compatible(file, here)


@needs_compilers
@needs_torch_tensorrt
def test_torch_tensorrt_converts_the_ops_of_any_library(moved):
    import torch_tensorrt

    program = torch.export.export(Both().eval(), ARGS)
    with door.cross_compile("sm86") as engines:
        compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=ARGS, min_block_size=1)
    assert len(engines) == 1
    assert {layer["op"]: 1 for layer in door.layers_of(compiled) if layer["type"] == "PLUGIN_V3"} == COUNTS


@needs_compilers
@needs_torch_tensorrt
def test_a_library_that_is_defined_after_torch_tensorrt_is_registered_for_engines_that_are_loaded(built, monkeypatch):
    """In a process of its own: TensorRT's registry outlives what bridge forgets."""
    code = inspect.cleandoc(
        """
        import bridge, torch_tensorrt
        from bridge.tensorrt.install.flavour import detect
        known = lambda: {(c.plugin_namespace, c.name) for c in detect().trt().get_plugin_registry().all_creators}
        assert ("bridge", "relu") in known() and ("moved", "relu") not in known()
        bridge.op("moved::relu")(bridge.OPS["relu"].reference)
        assert ("moved", "relu") in known()
        """
    )
    monkeypatch.setenv("MOVED_LIBRARY_DIR", str(built))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_compilers
@needs_torch_tensorrt
def test_an_op_whose_signatures_differ_stops_only_what_uses_it(built, monkeypatch):
    """In a process of its own: TensorRT's registry outlives what bridge forgets."""
    code = inspect.cleandoc(
        """
        import warnings
        import bridge, torch

        def relu(x: torch.Tensor, slope: float = 0.0) -> torch.Tensor:
            return x.clone()

        class Net(torch.nn.Module):
            def forward(self, x, rois):
                return torch.ops.moved.roi_align(bridge.relu(x, 0.1), rois)

        relu.__module__ = "bridge.ops.relu"  # as the reference of the other op
        with warnings.catch_warnings(record=True) as caught:
            bridge.op("moved::relu")(relu)
        assert "moved::relu: its reference and its op struct, relu.cu, disagree" in str(caught[0].message)
        bridge.op("moved::roi_align")(bridge.OPS["roi_align"].reference)
        args = torch.randn(2, 3, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]])
        compiled = bridge.compile(Net().eval(), args, target="sm86", cache=False, lowering="plugin")
        assert compiled.plugin_counts() == {"relu": 1, "moved::roi_align": 1}

        from bridge.tensorrt.install.flavour import detect
        from bridge.tensorrt.run.engine import check_compatible
        check_compatible(compiled.file, detect())
        compiled.file.plugins["moved::relu"] = "1"
        try:
            check_compatible(compiled.file, detect())
        except bridge.errors.EngineError as error:
            assert "needs the plugin moved::relu of " in str(error) and "relu.cu, disagree" in str(error)
        else:
            raise AssertionError("an engine with the plugin would misread its fields")

        import torch_tensorrt
        with bridge.cross_compile("sm86"):
            module = torch_tensorrt.compile(Net().eval(), ir="dynamo", inputs=list(args), min_block_size=1)
        assert bridge.report(module).plugin_counts() == {"relu": 1, "moved::roi_align": 1}
        """
    )
    monkeypatch.setenv("MOVED_LIBRARY_DIR", str(built))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_compilers
@needs_torch_tensorrt
def test_a_target_without_code_in_a_library_is_an_error(moved):
    class Moved(nn.Module):
        def forward(self, x):
            return torch.ops.moved.relu(x + x)

    expected = r"moved::relu: .*libmoved_plugins\.so holds code for sm_86, none of which runs on sm80\. .*pip install"
    with pytest.raises(TargetError, match=expected):
        bridge.compile(Moved().eval(), (torch.randn(3),), target="sm80", cache=False)
    program = torch.export.export(Moved().eval(), (torch.randn(3),))
    with pytest.raises(TargetError, match=expected), door.cross_compile("sm80"):
        import torch_tensorrt

        torch_tensorrt.dynamo.compile(program, arg_inputs=(torch.randn(3),), min_block_size=1)
    assert bridge.compile(Moved().eval(), (torch.randn(3),), target="sm89", cache=False).plugin_counts()


@needs_compilers
@needs_torch_tensorrt
def test_settings_name_the_ops_of_any_library(moved):
    with pytest.raises(UnsupportedOpError, match="moved::relu has no native lowering"):
        bridge.compile(Both().eval(), ARGS, target="sm86", lowering={"moved::relu": "native"})
    assert bridge.Config(lowering={"moved::relu": "plugin"}).lowering_of("moved::relu") == "plugin"


@needs_compilers
@needs_torch_tensorrt
def test_dtypes_that_a_bound_kernel_lacks_are_an_error(moved):
    class Pooled(nn.Module):
        def forward(self, x, rois):
            return torch.ops.moved.roi_align(x, rois.int(), [2, 2])

    with pytest.raises(UnsupportedOpError, match="rois is int32, expected float32"):
        bridge.compile(Pooled().eval(), ARGS, target="sm86")


@needs_compilers
def test_a_namespace_is_one_library(moved):
    with pytest.raises(OpDefinitionError, match=r"the namespace moved belongs to .*; elsewhere needs another"):
        LIBRARIES.of("moved", "elsewhere")
    with pytest.raises(OpDefinitionError, match=r"op moved::relu is defined already, in "):
        bridge.op("moved::relu")(copy_of(OPS["relu"].reference))


@needs_compilers
def test_a_library_of_another_namespace_is_an_error(moved, built, tmp_path, monkeypatch):
    shutil.copy(built / "libmoved_plugins.so", tmp_path / "libother_plugins.so")
    monkeypatch.setenv("OTHER_LIBRARY_DIR", str(tmp_path))
    with forgotten(), pytest.warns(UserWarning, match="holds the ops of moved, expected those of other"):
        bridge.op("other::relu")(copy_of(OPS["relu"].reference))
        assert "holds the ops of moved" in LIBRARIES["other"].problem_of("relu")


# Without compilers


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


# Device code


@pytest.mark.parametrize(
    ("codes", "target", "runs"),
    [
        ([DeviceCode(86, False)], "sm86", True),
        ([DeviceCode(86, False)], "sm89", True),
        ([DeviceCode(86, False)], "sm80", False),
        ([DeviceCode(86, False)], "sm120", False),
        ([DeviceCode(86, True)], "sm120", True),
        ([DeviceCode(86, True)], "sm80", False),
        ([DeviceCode(90, False, True)], "sm90", True),
        ([DeviceCode(90, True, True)], "sm100", False),
        ([DeviceCode(80, False), DeviceCode(120, False)], "sm121", True),
        ([], "sm80", True),
    ],
)
def test_code_runs_where_cuda_says_so(codes, target, runs):
    assert (lacking_text(codes, target) is None) == runs


def test_what_is_no_library_holds_no_known_code(tmp_path):
    for content in (b"", b"no ELF", b"\x7fELF\x02 cut off"):
        path = tmp_path / f"{len(content)}.so"
        path.write_bytes(content)
        assert device_codes(path) == ()


def test_bridges_own_library_holds_code():
    path = LIBRARIES["bridge"].find("plugins")
    if path is None:
        pytest.skip("needs bridge's native libraries")
    assert device_codes(path) and device_codes(path) == device_codes(LIBRARIES["bridge"].find("torch"))


def test_libraries_that_do_not_exist_are_named():
    with pytest.raises(LibraryError, match=r"there is no library nowhere; there are .*bridge.*bridge\.load_ops"):
        libraries.library("nowhere")
