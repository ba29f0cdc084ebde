"""Libraries of ops beside bridge's own: none is privileged, and each stands for itself.

Two of bridge's op structs are built into a library of another namespace. One of them is defined there by `@bridge.op`;
the other one is bound to an operator that exists already.
"""

import inspect
import shutil
import subprocess
import types
from importlib.util import find_spec
from pathlib import Path

import fresh_process
import pytest
import torch
from compilers import environment, needs_compilers
from oracle import ahead, interpreted, just_in_time
from own_ops import forgotten
from torch import Tensor, nn

import bridge
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.doors import torch_tensorrt_door as door
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineError, OpDefinitionError, TargetError, UnsupportedOpError
from bridge.tensorrt.install import flavour
from bridge.tensorrt.run.engine import check_compatible
from bridge.testing import check_op
from bridge.toolchain import tools

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
    cmake, ninja = tools.program("cmake"), f"-DCMAKE_MAKE_PROGRAM={tools.program('ninja')}"
    run([cmake, "-S", folder, "-B", folder / "build", "-G", "Ninja", ninja, *settings])
    run([cmake, "--build", folder / "build"])
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
    done = fresh_process.run(code, imported=fresh_process.COMPILER)
    assert done.returncode == 0, done.stderr


DISAGREEING = inspect.cleandoc(
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


@needs_compilers
@needs_torch_tensorrt
def test_an_op_whose_signatures_differ_stops_only_what_uses_it(built, monkeypatch):
    """In a process of its own: TensorRT's registry outlives what bridge forgets."""
    monkeypatch.setenv("MOVED_LIBRARY_DIR", str(built))
    done = fresh_process.run(DISAGREEING, imported=fresh_process.COMPILER)
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
