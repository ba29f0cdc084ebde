"""examples/acme_norm and examples/acme_soft, installed: ops for which nobody wrote a plugin."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import fresh_process
import onnx_files
import own_ops
import pytest
import torch
from oracle import ahead, interpreted, just_in_time
from torch.export import Dim

import bridge
from bridge.doors import torch_tensorrt_door as door

EXAMPLES = Path(__file__).parents[2] / "examples"
SETUP = "import setuptools; setuptools.setup()"  # reads pyproject.toml
SIZES = ({0: Dim("batch", min=1, max=8), 1: Dim("length", min=2, max=128)},)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with both packages and their metadata, as pip leaves them."""
    folder = tmp_path_factory.mktemp("examples")
    installed = folder / "site"
    installed.mkdir()
    for name in ("acme_norm", "acme_soft"):
        project = shutil.copytree(EXAMPLES / name, folder / name)
        command = [
            sys.executable,
            "-c",
            SETUP,
            "build_py",
            "--build-lib",
            installed,
            "egg_info",
            "--egg-base",
            installed,
        ]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return installed


@pytest.fixture(scope="module")
def models(site):
    """A model of each, and its input; bridge forgets their ops afterwards."""
    with own_ops.forgotten(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        torch.manual_seed(0)
        mixer = importlib.import_module("acme_norm").Mixer(width=8, inner=21).eval()
        net = importlib.import_module("acme_soft").SoftNet(width=8, channels=24, k=5.0).eval()
        yield {"acme_norm": (mixer, torch.randn(2, 9, 8)), "acme_soft": (net, torch.randn(2, 9, 8))}


PLUGINS = {"acme_norm": ["gated_rms_norm"], "acme_soft": ["soft_gate", "window_pool"]}


def names(counts):
    """Of plugins, without namespaces and digests."""
    return sorted(name.partition("::")[2].rpartition("_")[0] for name in counts)


def test_the_package_of_the_triton_op_names_no_bridge(site):
    assert not [path for path in (site / "acme_norm").rglob("*.py") if "bridge" in path.read_text()]


@pytest.mark.parametrize("name", PLUGINS)
def test_engines_compute_what_the_model_computes(models, name, fresh_dynamo):
    model, x = models[name]
    with interpreted():
        compiled = ahead(model, (x,), SIZES)
        assert names(compiled.plugin_counts()) == PLUGINS[name]
        for shape in [(1, 2, 8), (3, 17, 8), (8, 5, 8)]:
            other = torch.randn(shape)
            torch.testing.assert_close(compiled(other), model(other), rtol=1e-4, atol=1e-4)
        jit = just_in_time(model)
        torch.testing.assert_close(jit(x), model(x), rtol=1e-4, atol=1e-4)
        assert len(bridge.report(jit).engines) == 1


@pytest.mark.parametrize("name", PLUGINS)
def test_the_model_is_one_engine_through_torch_tensorrt(models, name):
    model, x = models[name]
    torch_tensorrt = pytest.importorskip("torch_tensorrt")
    with door.cross_compile("sm86") as engines:
        program = torch.export.export(model, (x,))
        module = torch_tensorrt.dynamo.compile(program, arg_inputs=(x,), min_block_size=1)
    assert len(engines) == 1
    assert names(each["op"] for each in door.layers_of(module) if each["type"] == "PLUGIN_V3") == PLUGINS[name]


def test_the_model_as_an_onnx_file(models, tmp_path):
    pytest.importorskip("onnxscript")
    model, x = models["acme_norm"]
    file = bridge.export_onnx(model, (x,), dynamic_shapes=SIZES, path=tmp_path / "net.onnx", target="sm86")
    assert names(file.plugins) == ["gated_rms_norm"] and len(file.libraries) == 1
    assert len(onnx_files.Imported(file).plugins) == 1
    onnx_files.assert_equal_to(model, file.path, (torch.randn(3, 17, 8),))


def test_a_library_is_built_once(models, shared_cache):
    model, x = type(models["acme_norm"][0])(width=8, inner=22).eval(), torch.randn(2, 9, 8)

    def libraries():
        found = (shared_cache / "generated" / "acme_norm").rglob("*.so")
        return {path: path.stat().st_mtime_ns for path in found}

    def compiled():
        bridge.compile(model, (x,), dynamic_shapes=SIZES, target="sm86", cache=False)
        return libraries()

    before = libraries()
    first = compiled()
    assert len(first) == len(before) + 1
    assert compiled() == first


@pytest.mark.parametrize("name", PLUGINS)
def test_its_own_tests_pass(site, name):
    """As its README says to run them: engines for sm86 and sm120 among them; those that need a GPU skip themselves."""
    done = fresh_process.tests(EXAMPLES / name / "tests", site)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout
