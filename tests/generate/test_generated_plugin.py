"""A generated op as TensorRT sees it, without a GPU: what a builder asks, and what an execution context does first."""

import pytest
import torch
from plugin_host import Plugin

from bridge.tensorrt.plugins import plugin_object
from bridge.tensorrt.plugins.plugin_run import PluginRunError, run_plugin


@pytest.fixture
def plugin(generated):
    def plugin(op, **attributes):
        return Plugin(plugin_object.create(generated.folder / "libacme_plugins.so", generated.names[op], attributes))

    return plugin


def half(*shape):
    return torch.empty(shape, dtype=torch.float16)


def test_a_builder_is_told_dtypes_and_workspace(plugin):
    norm = plugin("rms_norm", eps=1e-6)
    tensors, outputs = [half(8, 100), half(100)], [half(8, 100)]
    assert norm.configure(tensors, outputs) == 0
    assert norm.output_dtypes([torch.float16, torch.float16]) == [plugin_object.DTYPES[torch.float16]]
    assert norm.workspace(tensors, outputs) == 256
    assert norm.supports(0, [torch.float16] * 3, 2)
    assert not norm.supports(0, [torch.float32] * 3, 2)


def test_attributes_survive_an_engine(plugin):
    kept = plugin("clamped", low=-1.5).serialized()
    assert kept["mode"] == (6, b'a"b')
    assert set(kept) == {"mode", "double", "name", "negate", "low", "axes"}


def test_a_context_is_made_ready_where_there_is_no_gpu(plugin, capfd):
    """Kernels are loaded when shapes change; what does not load is an error of the run, not of the shapes."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    norm = plugin("rms_norm", eps=1e-6).attach()
    tensors, outputs = [half(8, 100), half(100)], [half(8, 100)]
    assert norm.shape_change(tensors, outputs) == 0
    assert capfd.readouterr().err == ""
    assert norm.enqueue(tensors, outputs, 0, torch.empty(512, dtype=torch.uint8)) != 0
    assert "enqueue: kernel row_scale: cudaError" in capfd.readouterr().err


def test_a_run_without_an_engine_needs_shapes_of_the_profile(generated):
    library, name = generated.folder / "libacme_plugins.so", generated.names["tiled"]
    with pytest.raises(PluginRunError, match=r"it refuses shapes \[1000, 100\]"):
        run_plugin(library, name, [half(1000, 100)], [half(1000, 100)])


def test_shapes_out_of_the_profile_are_refused_before_a_run(plugin, capfd):
    norm = plugin("rms_norm", eps=1e-6).attach()
    assert norm.shape_change([half(65, 100), half(100)], [half(65, 100)]) != 0
    assert "x has extent 65 in dimension 0, and the op was generated for 1 to 64" in capfd.readouterr().err
