"""examples/acme_corr, installed: an op and a model that bridge knows nothing of."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fresh_process
import onnx_files
import pytest
import torch
from oracle import ahead, interpreted, just_in_time
from torch import nn
from torch.export import Dim

import bridge
from bridge.base.log import logger
from bridge.cli import doctor, library_table, op_table
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.doors import torch_tensorrt_door as door
from bridge.engine_file.contents import EngineFile
from bridge.errors import LibraryError, TargetError
from bridge.export.libraries import libraries_of
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.plugins.registration import register_plugins
from bridge.toolchain import tools

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
IMAGES = tuple(torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
BATCH = Dim("batch", min=1, max=4)
DYNAMIC = ({0: BATCH}, {0: BATCH})


@pytest.fixture(scope="module")
def net(acme):
    torch.manual_seed(0)
    return acme.FlowNet(width=8, radii=(2, 3)).eval()


@pytest.fixture(scope="module")
def engine_file(net, tmp_path_factory):
    """Of an engine that TensorRT built for compute capability 8.6."""
    compiled = bridge.compile(net, IMAGES, dynamic_shapes=DYNAMIC, target="sm86", cache=False)
    path = tmp_path_factory.mktemp("engine") / "flow.engine"
    compiled.save(path)
    return path


def test_the_wheel_is_for_every_python_and_says_what_it_has(site):
    assert sorted(each.name for each in (site / "acme_corr" / "lib").iterdir()) == [
        "libacme_plugins.so",
        "libacme_torch.so",
    ]
    (info,) = site.glob("acme_corr-*.dist-info")
    assert "Tag: py3-none-linux_x86_64" in (info / "WHEEL").read_text()
    assert "[bridge.ops]\nacme = acme_corr" in (info / "entry_points.txt").read_text().replace("acme=", "acme =")
    assert not (site / "tests").exists() and not (site / "csrc").exists()


def test_the_library_says_where_it_comes_from(acme):
    assert LIBRARIES["acme"].ops == {"corr": OPS["acme::corr"]}
    assert LIBRARIES["acme"].origin == "acme-corr 0.1.0"


@needs_torch_tensorrt
def test_the_model_is_one_engine_at_every_door(net, engine_file):
    file = EngineFile.load(engine_file)
    assert file.plugins == {"acme::corr": "1"} and file.target == "sm86"
    with door.cross_compile("sm86") as engines:
        import torch_tensorrt

        program = torch.export.export(net, IMAGES)
        compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=IMAGES, min_block_size=1)
    assert len(engines) == 1
    assert [layer["op"] for layer in door.layers_of(compiled) if layer["type"] == "PLUGIN_V3"] == ["acme::corr"]


@needs_torch_tensorrt
def test_engines_compute_what_the_model_computes(net):
    torch._dynamo.reset()
    with interpreted():
        compiled = ahead(net, IMAGES, DYNAMIC)
        assert compiled.plugin_counts() == {"acme::corr": 1}
        for batch in (1, 2, 3):
            images = [torch.randn(batch, 3, 32, 40) for _ in range(2)]
            torch.testing.assert_close(compiled(*images), net(*images), rtol=1e-3, atol=1e-3)
        jit = just_in_time(net)
        torch.testing.assert_close(jit(*IMAGES), net(*IMAGES), rtol=1e-3, atol=1e-3)
        assert len(bridge.report(jit).engines) == 1
    torch._dynamo.reset()


@needs_torch_tensorrt
def test_the_model_as_an_onnx_file(net, engine_file, tmp_path):
    pytest.importorskip("onnxscript")
    file = bridge.export_onnx(net, IMAGES, dynamic_shapes=DYNAMIC, path=tmp_path / "flow.onnx", target="sm86")
    assert file.plugins == {"acme::corr": 1} and [path.name for path in file.libraries] == ["libacme_plugins.so"]
    assert onnx_files.plugin_nodes(file.path) == onnx_files.plugin_layers(EngineFile.load(engine_file))
    assert len(onnx_files.Imported(file).plugins) == 1
    onnx_files.assert_equal_to(net, file.path, [torch.randn(3, 3, 32, 40) for _ in range(2)])


@needs_torch_tensorrt
def test_the_engine_file_says_which_library_it_needs(engine_file, site):
    (row,) = EngineFile.load(engine_file).metadata["libraries"]
    assert (row["namespace"], row["file"], row["origin"]) == ("acme", "libacme_plugins.so", "acme-corr 0.1.0")


LOAD = """
import sys, bridge
from bridge.engine_file.contents import EngineFile
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.run.engine import check_compatible
try:
    check_compatible(EngineFile.load(sys.argv[1]), detect())
    print("loads", sorted(set(bridge.OPS) - set(dir(bridge))))
except bridge.BridgeError as error:
    print(type(error).__name__, error)
"""


def child(code, *arguments, site=None):
    paths = [str(site)] if site else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_torch_tensorrt
def test_a_process_without_the_package_is_told_what_it_lacks(engine_file, site):
    """With it nothing need be imported: the entry point is enough."""
    told = child(LOAD, engine_file)
    assert told.startswith(
        "EngineError the engine needs the plugin acme::corr of acme-corr 0.1.0 (libacme_plugins.so, "
    )
    assert "there is no library acme" in told and "Install the package that has its ops" in told
    assert child(LOAD, engine_file, site=site) == "loads ['acme::corr']\n"


def test_the_command_lists_the_library(acme):
    assert "acme::corr" in [row["name"] for row in op_table.rows()]
    states = library_table.states()
    assert "plugins corr; their schemas match the ops; code for sm_86" in states["libacme_plugins.so"]["state"]
    assert "of acme-corr 0.1.0" in states["libacme_torch.so"]["state"]
    assert "libacme_plugins.so" in str(doctor.examine())


def test_kernels_that_are_compiled_fast_are_told(acme, engine_file, monkeypatch):
    """As the fixture has them, if the compiler can."""
    if "ACME_LIBRARY_DIR" in os.environ:
        pytest.skip("the library was built elsewhere, perhaps without BRIDGE_FAST_COMPILE")
    text = subprocess.run([tools.nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    fast = int(re.search(r"release (\d+)", text)[1]) >= 13
    state = library_table.states()["libacme_plugins.so"]["state"]
    assert ("code for sm_86, compute_86, slow, by BRIDGE_FAST_COMPILE; of" in state) == fast
    warnings = []
    monkeypatch.setattr(logger, "warning", warnings.append)
    libraries_of(EngineFile.load(engine_file))
    assert ["libacme_plugins.so was built with BRIDGE_FAST_COMPILE" in warning for warning in warnings] == [True] * fast


@needs_torch_tensorrt
def test_a_gpu_that_the_library_has_no_code_for_is_an_error(net):
    with pytest.raises(TargetError, match=r"acme::corr: .*libacme_plugins\.so holds code for sm_86, .* runs on sm80"):
        bridge.compile(net, IMAGES, target="sm80", cache=False)


@needs_torch_tensorrt
def test_a_library_that_is_gone_is_missed_where_it_is_used(net, tmp_path, monkeypatch):
    monkeypatch.setenv("ACME_LIBRARY_DIR", str(tmp_path))
    expected = rf"libacme_plugins\.so is not in {tmp_path}"
    with pytest.raises(bridge.BridgeError, match=expected):
        bridge.compile(net, IMAGES, target="sm86", cache=False)
    with pytest.raises(LibraryError, match=expected + r"\. Build it with `pip install \.`, or set ACME_LIBRARY_DIR"):
        LIBRARIES["acme"].plugin_library()
    with pytest.raises(LibraryError, match=expected):  # as where an engine that needs it is loaded
        register_plugins(detect().trt(), [LIBRARIES["acme"]])


class Other(nn.Module):
    def forward(self, x):
        return bridge.relu(x)


@needs_torch_tensorrt
def test_models_that_do_not_use_it_need_nothing_of_it(acme):
    compiled = bridge.compile(Other().eval(), (torch.ones(3),), target="sm86", cache=False)
    assert [row["namespace"] for row in compiled.file.metadata["libraries"]] == ["bridge"]


def test_its_own_tests_pass(site):
    """As its README says to run them; those of the kernel need a GPU."""
    done = fresh_process.tests(Path(__file__).parents[2] / "examples/acme_corr/tests", site)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout
