"""Plugin libraries in the plan: put there by the build, and told by the file."""

from importlib.util import find_spec

import pytest
import torch

import bridge
from bridge.core import libraries
from bridge.engine_file.contents import EngineFile
from bridge.export import manifest
from bridge.export.libraries import libraries_of


class Net(torch.nn.Module):
    def forward(self, x):
        return {"scaled": bridge.relu(2 * x, 0.1, 6.0)}


@pytest.fixture(scope="module")
def compiled():
    if find_spec("tensorrt_rtx") is None or find_spec("torch_tensorrt") is None:
        pytest.skip("needs torch_tensorrt and tensorrt_rtx")
    return bridge.compile(Net().eval(), (torch.ones(2, 4),), target="sm86", embed=True, cache=False)


def test_the_plan_holds_the_library(compiled):
    assert libraries.plugin_library().read_bytes() in compiled.engine
    assert compiled.file.embeds_libraries and compiled.plugin_counts() == {"relu": 1}


def test_a_host_needs_no_other_file(compiled, tmp_path):
    compiled.export(tmp_path / "net")
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == ["README.md", "manifest.json", "model.plan"]
    assert (tmp_path / "net/model.plan").read_bytes() == compiled.engine
    described = manifest.read(tmp_path / "net")
    assert described["embedded"] and described["libraries"] == [] and described["outputs"][0]["name"] == "scaled"
    text = (tmp_path / "net/README.md").read_text()
    assert "runtime.engine_host_code_allowed = True" in text and "setEngineHostCodeAllowed(true)" in text


def test_the_file_says_so(compiled, tmp_path, monkeypatch):
    compiled.save(tmp_path / "net.engine")
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))  # where there is none
    file = EngineFile.load(tmp_path / "net.engine")
    assert file.embeds_libraries and libraries_of(file) == []


@pytest.mark.gpu(engines=True)
def test_it_runs_without_a_registered_plugin(tmp_path, device):
    """In a process of its own, where nothing registered the plugins."""
    import fresh_process

    x = torch.randn(2, 4, device=device)
    compiled = bridge.compile(Net().eval(), (x,), embed=True, cache=False)
    compiled.save(tmp_path / "net.engine")
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, bridge; file, x, y = sys.argv[1:]\n"
        "torch.save(bridge.load(file)(torch.load(x))['scaled'], y)"
    )
    done = fresh_process.run(code, tmp_path / "net.engine", tmp_path / "x.pt", tmp_path / "y.pt")
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), Net()(x)["scaled"])
