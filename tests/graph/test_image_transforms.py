"""torchvision's first transforms in front of a model: exported for any size, and found by the pass."""

from importlib.util import find_spec

import oracle
import pytest
import torch
from torch import nn
from torch.export import Dim

from bridge.errors import ExportError
from bridge.graph import capture
from bridge.graph.torch_patches.image_transforms import image_transforms_without_guards

functional = pytest.importorskip("torchvision.transforms.functional", reason="needs torchvision")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEIGHT, WIDTH = Dim("height", min=8, max=200), Dim("width", min=8, max=200)
SIZES = [(90, 120), (33, 200), (200, 8), (64, 48), (8, 9)]  # of which one is what they are resized to


class Transforms(nn.Module):
    """Bytes [N, H, W, 3] to normalised images of 64 × 48, as detectors' `predict` has it."""

    def __init__(self, antialias=True, size=(64, 48)):
        super().__init__()
        self.antialias, self.size = antialias, list(size)

    def forward(self, images):
        x = images.permute(0, 3, 1, 2).float() / 255
        return functional.normalize(functional.resize(x, self.size, antialias=self.antialias), MEAN, STD)


class Normalized(nn.Module):
    def __init__(self, std, inplace=False):
        super().__init__()
        self.std, self.inplace = std, inplace

    def forward(self, x):
        y = x * 1
        return functional.normalize(y, [0.5] * 3, self.std, self.inplace) + y


def pixels(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def exported(model, x, shapes=None):
    with image_transforms_without_guards():
        return capture.export(model.eval(), (x,), {}, shapes)


@pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
@pytest.mark.parametrize("antialias", [True, False])
def test_bytes_of_any_size_are_one_op(antialias):
    model = Transforms(antialias).eval()
    with oracle.interpreted():
        compiled = oracle.ahead(model, (pixels(2, 90, 120, 3),), ({1: HEIGHT, 2: WIDTH},))
        assert compiled.plugin_counts() == {"preprocess": 1}
        for size in SIZES:
            images = pixels(2, *size, 3)
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("std", [[0.2, 0.3, 0.4], (1, 2, 3)])
def test_normalize_is_torchvisions(std, inplace):
    model, x = Normalized(std, inplace), torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(exported(model, x).module()(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(("std", "dtype"), [([0.2, 0.0, 0.4], torch.float32), ([0.2, 1e-8, 0.4], torch.float16)])
def test_a_deviation_that_is_zero_is_refused_as_in_torchvision(std, dtype):
    x = torch.randn(2, 3, 5, 7).to(dtype)
    with pytest.raises(ValueError, match="zero"):
        Normalized(std)(x)
    with pytest.raises((ValueError, ExportError), match="division by zero"):
        exported(Normalized(std), x)


def test_the_smallest_numbers_are_not_zero():
    least = torch.finfo(torch.float16).tiny * torch.finfo(torch.float16).eps
    for value in (least, 0.75 * least, 0.5 * least, 0.25 * least):
        is_zero = not torch.tensor(value, dtype=torch.float16)
        model, x = Normalized([1.0, value, 1.0]), torch.zeros(1, 3, 2, 2, dtype=torch.float16)
        if is_zero:
            with pytest.raises((ValueError, ExportError), match="division by zero"):
                exported(model, x)
        else:
            assert exported(model, x) is not None


def test_a_shorter_side_keeps_its_branch():
    """Which side is the shorter one is part of what it computes: another range is refused, with what it may be."""
    with pytest.raises(ExportError, match=r"height|width"):
        exported(Transforms(size=[32]), pixels(1, 90, 120, 3), ({1: HEIGHT, 2: WIDTH},))
    model, x = Transforms(size=[32]), pixels(1, 90, 120, 3)
    torch.testing.assert_close(exported(model, x).module()(x), model(x))


def test_nothing_is_left_changed():
    module = functional.F_t
    before = module.normalize, functional._compute_resized_output_size
    with image_transforms_without_guards():
        assert module.normalize is not before[0]
        assert functional._compute_resized_output_size((4, 6), [4, 6]) == [4, 6]  # sizes that are known are compared
    assert (module.normalize, functional._compute_resized_output_size) == before
