"""When generated plugins are compared with PyTorch, and what a wrong one does to a compilation."""

import json
import logging
import shutil

import pytest
import torch
import triton_ops
from torch import nn
from torch.export import Dim

import bridge
from bridge.core.op import OPS
from bridge.doors.comparison import marks, on_gpu
from bridge.doors.comparison.comparison import Compared
from bridge.errors import BuildError
from bridge.tensorrt.plugins.plugin_run import PluginRunError

X = torch.linspace(-1, 1, 120).view(3, 40)


pytestmark = pytest.mark.usefixtures("evaluated")


@pytest.fixture(autouse=True)
def nothing_compared(shared_cache):
    """The libraries of these tests are not marked as compared."""
    for path in shared_cache.rglob(marks.FILE):
        path.unlink()


@torch.library.custom_op("comparison_test::squares", mutates_args=())
def squares(x: torch.Tensor) -> torch.Tensor:
    """Squares less their mean. x: [N, C]."""
    return x.square() - x.square().mean(-1, keepdim=True)


squares.register_fake(torch.empty_like)


class Squares(nn.Module):
    def forward(self, x):
        return squares(x).relu()


class Unsupported(nn.Module):
    def forward(self, x):
        return torch.lgamma(x).relu()


class Norm(nn.Module):
    def forward(self, x):
        return triton_ops.rms_norm(x, x[0])


@pytest.fixture
def comparisons(monkeypatch):
    """The operators that were compared. There is a GPU of sm86, on which results are as `answer` says."""
    made = []

    class Comparisons(list):
        answer = staticmethod(lambda: Compared(("x float32 [3, 40]",), 1e-6))
        gpu = "NVIDIA A GPU"

    def compared(op, call):
        made.append(op.operator)
        return made.answer()

    made = Comparisons()
    monkeypatch.setattr(on_gpu, "current_target", lambda: "sm86")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: made.gpu)
    monkeypatch.setattr(on_gpu, "_compared", compared)
    return made


def compiled(model, **settings):
    sizes = ({0: Dim("rows", min=1, max=64)},)
    return bridge.compile(model.eval(), (X,), dynamic_shapes=sizes, **{"target": "sm86", "cache": False} | settings)


def folder_of(compiled):
    (name,) = compiled.plugin_counts()
    return OPS[name].library.directories()[0], OPS[name].local_name


def test_a_plugin_is_compared_once_for_each_gpu(comparisons):
    folder, plugin = folder_of(compiled(Squares()))
    compiled(Squares())
    assert comparisons == ["comparison_test::squares"]
    row = json.loads((folder / "compared.json").read_text())[plugin]["NVIDIA A GPU"]
    assert row["shapes"] == ["x float32 [3, 40]"] and row["error"] == 1e-6 and row["torch"] == torch.__version__
    comparisons.gpu = "NVIDIA B GPU"
    compiled(Squares())
    assert len(comparisons) == 2 and set(json.loads((folder / "compared.json").read_text())[plugin]) == {
        "NVIDIA A GPU",
        "NVIDIA B GPU",
    }


def test_an_operator_without_a_converter_is_compared(comparisons):
    compiled(Unsupported(), generate=True)
    assert comparisons == ["inductor::lgamma"]


def test_kernels_of_the_operator_itself_are_not_compared(comparisons):
    compiled(Norm())
    assert comparisons == []


def test_another_target_is_not_compared(comparisons):
    compiled(Squares(), target="sm120")
    assert comparisons == []


def test_a_setting_leaves_it_out(comparisons):
    folder, _ = folder_of(compiled(Squares(), check_generated=False))
    assert comparisons == [] and not (folder / "compared.json").exists()


def test_a_plugin_that_came_from_another_library_is_not_compared(comparisons, monkeypatch):
    monkeypatch.setattr(on_gpu.plugin_object, "creators", lambda path: {})
    compiled(Squares())
    assert comparisons == []


def test_a_shipped_library_is_not_compared(comparisons, monkeypatch, tmp_path):
    folder, _ = folder_of(compiled(Squares(), check_generated=False))
    shutil.copytree(folder, tmp_path / "shipped")
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", str(tmp_path / "shipped"))
    assert folder_of(compiled(Squares()))[0] == tmp_path / "shipped" and comparisons == []


def test_without_a_gpu_nothing_is_compared():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    folder, plugin = folder_of(compiled(Squares()))
    assert marks.found(folder, plugin, "none") is None


def wrong():
    raise BuildError("comparison_test::squares: its generated plugin gives a wrong result")


def test_a_wrong_plugin_is_an_error_with_the_line_of_the_model_and_the_way_out(comparisons):
    comparisons.answer = wrong
    for _ in range(2):
        with pytest.raises(BuildError) as caught:
            compiled(Squares())
    text = str(caught.value)
    assert "gives a wrong result" in text and "return squares(x).relu()" in text and "run it in PyTorch" in text
    assert len(comparisons) == 2
    assert compiled(Squares(), check_generated=False).plugin_counts().total() == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (PluginRunError("its run fails"), "its generated plugin cannot be compared with PyTorch: its run fails"),
        (
            torch.AcceleratorError("CUDA error: assert\nmore"),
            "the GPU fails in PyTorch .*: CUDA error: assert; in a new",
        ),
        (BuildError("a result is wrong"), "a result is wrong .on NVIDIA A GPU; .* The setting check_generated=False"),
    ],
)
def test_every_fault_of_a_comparison_is_an_error_of_the_build(monkeypatch, fault, message):
    def result(self):
        raise fault

    monkeypatch.setattr(on_gpu, "current_target", lambda: "sm86")
    monkeypatch.setattr(on_gpu.Comparison, "result", result)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (1 << 34, 1 << 34))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(BuildError, match=message):
        compiled(Squares())


def test_with_fallback_pytorch_runs_what_is_wrong(comparisons, caplog):
    comparisons.answer = wrong
    model = Squares().eval()
    with caplog.at_level(logging.WARNING, "bridge"):
        fast = torch.compile(model, backend="bridge", options={"target": "sm86", "fallback": True, "cache": False})
        assert torch.equal(fast(X), model(X))
    assert not bridge.report(fast).plugin_counts()
    assert any("gives a wrong result" in record.getMessage() for record in caplog.records)


def test_a_damaged_list_of_comparisons_is_written_anew(tmp_path):
    (tmp_path / marks.FILE).write_text("{")
    assert marks.found(tmp_path, "a", "GPU") is None
    marks.keep(tmp_path, "a", "GPU", {"error": 0.0})
    marks.keep(tmp_path, "a", "other", {"error": 0.5})
    marks.keep(tmp_path, "b", "GPU", {"error": 0.25})
    assert marks.found(tmp_path, "a", "GPU") == {"error": 0.0} and marks.found(tmp_path, "b", "GPU") == {"error": 0.25}


def test_a_folder_that_is_not_there_is_no_error(tmp_path):
    marks.keep(tmp_path / "lost", "a", "GPU", {})
    assert marks.found(tmp_path / "lost", "a", "GPU") is None
