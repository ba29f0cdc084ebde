"""What torch or TensorRT says by itself, in words that tell what to do."""

from importlib.util import find_spec

import pytest
import refused_models
import torch
from refused_models import refused

import bridge
from bridge import errors

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def test_nine_dimensions_are_refused_before_tensorrt_sees_them():
    text = refused(errors.UnsupportedOpError, lambda model, x: (x.view(*[1] * 7, *x.shape) * 2).sum())
    assert "it has a tensor of 9 dimensions; TensorRT takes 8" in text and f"{refused_models.__file__}:" in text


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda model, x: x + torch.rand_like(x), "it draws random numbers; take them as an input"),
        (lambda model, x: x * x.sum().item(), "it converts a tensor's value to a Python number"),
    ],
    ids=["random", "item"],
)
def test_operators_that_no_engine_has_say_why(function, reason):
    assert reason in refused(errors.UnsupportedOpError, function)


def test_what_the_model_raises_is_named_with_its_line():
    def gone(model, x):
        raise KeyError("gone")

    text = refused(errors.ExportError, gone)
    assert "KeyError: 'gone'" in text and f"{__file__}:" in text and 'in gone: raise KeyError("gone")' in text


def test_branches_of_a_library_on_values_point_to_fallback(capfd):
    """torchvision's detectors ask how many boxes there are, which the model's author cannot change."""
    detection = pytest.importorskip("torchvision").models.detection
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=2)
    with pytest.raises(errors.ExportError, match="line of torchvision branches on values") as caught:
        bridge.compile(model.eval(), ([torch.rand(3, 64, 64)],), target="sm86")
    assert "fallback" in str(caught.value) and "torch.where" not in str(caught.value)
    assert len(str(caught.value)) < 1500 and "def forward(" not in capfd.readouterr().err


def test_a_model_that_asks_triton_for_a_gpu_is_explained():
    triton = pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    def ask(model, x):
        return x * triton.runtime.driver.active.get_current_target().warp_size

    text = refused(errors.ExportError, ask)
    assert "asks Triton for a GPU" in text and "torch.library.triton_op" in text


def test_a_launch_with_too_few_arguments_names_the_kernel():
    triton = pytest.importorskip("triton")

    @triton.jit
    def kernel(x, y, n):
        pass

    def launch(model, x):
        kernel[(1,)](x, torch.empty_like(x))
        return x * 2

    text = refused(errors.UnsupportedOpError, launch)
    assert "triton::kernel cannot become a plugin" in text and "missing a required argument: 'n'" in text
    assert f"{refused_models.__file__}:" in text
