"""Dynamic extents: arithmetic on them, tensors made of them, and what a model may not take for granted of them."""

import math
from importlib.util import find_spec
from unittest import mock

import numpy
import pytest
import torch
from aligned_models import Alignment, Sampled
from extent_models import ALL, AsValues, Made
from oracle import ahead, as_on_a_gpu, assert_same, interpreted, just_in_time
from torch import nn
from torch.export import Dim

from bridge.errors import ExportError, UnsupportedOpError
from bridge.tensorrt.converters.float_extents import _closed_form, lookup, scaled
from bridge.tensorrt.network import build

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")

HEIGHT, WIDTH = Dim("height", min=6, max=40), Dim("width", min=6, max=40)
SIZES = ((16, 18), (7, 11), (20, 13), (9, 9), (40, 6))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Function(nn.Module):
    """A model that is a function of x."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def ahead_of(function, height=HEIGHT, width=WIDTH, size=(16, 18)):
    return ahead(Function(function).eval(), (torch.randn(1, 2, *size),), {"x": {2: height, 3: width}})


@pytest.mark.parametrize("model", ALL)
def test_extents_by_bridge_compile(model):
    model = model().eval()
    with interpreted():
        compiled = ahead(model, (torch.randn(1, 2, 16, 18),), {"x": {2: HEIGHT, 3: WIDTH}})
        for size in SIZES:
            x = torch.randn(1, 2, *size)
            assert_same(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [model for model in ALL if model is not Made])  # which computes constants on the GPU
def test_extents_captured_as_on_a_gpu(model):
    model, x = model().eval(), torch.randn(1, 2, 16, 18)
    with interpreted():
        compiled = ahead(model, as_on_a_gpu((x,)), {"x": {2: HEIGHT, 3: WIDTH}})
        for size in SIZES:
            x = torch.randn(1, 2, *size)
            assert_same(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [AsValues, Made])
def test_extents_by_torch_compile(model):
    model = model().eval()
    with interpreted():
        compiled = just_in_time(model, dynamic=True)
        for size in SIZES[:3]:
            x = torch.randn(1, 2, *size)
            assert_same(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model", "axes"), [(Alignment(), (2, 3)), (Sampled(True), (1, 2)), (Sampled(False), (1, 2))])
def test_sampling_networks_at_any_size(model, axes):
    """By both doors; and TensorRT builds an engine of the network."""
    model, built = model.eval(), []
    example = model.example(10, 12)
    shapes = tuple(dict(zip(axes, (HEIGHT, WIDTH), strict=True)) for _ in example)
    real = build.build_engine
    with interpreted():
        stand_in = build.build_engine

        def build_both(*args):
            built.append(real(*args))
            return stand_in(*args)

        with mock.patch.object(build, "build_engine", build_both):
            compiled = ahead(model, example, shapes)
        assert len(built[0]) > 10_000
        fast = just_in_time(model, dynamic=True)
        for size in ((10, 12), (6, 7), (13, 13)):
            args = model.example(*size)
            assert_same(compiled(*args), model(*args), rtol=1e-4, atol=1e-4)
            assert_same(fast(*args), model(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [0.1, 0.25, 0.3, 0.7, 1 / 3, 1.3, 1.5, 2.5, math.pi])
@pytest.mark.parametrize("rounded", [int, math.ceil, round])
def test_the_closed_form_of_a_scaled_extent_is_pythons(factor, rounded):
    wanted = [rounded(extent * factor) for extent in range(3, 500)]
    form = _closed_form(numpy.array(wanted), 3)
    # Others have none where a product is rounded to a whole number, and round() prefers even ones: they become tables.
    assert form is not None or rounded is round or not (4 * factor).is_integer()
    if form is not None:
        assert [scaled(extent, *form) for extent in range(3, 500)] == wanted


def test_what_is_no_scaled_extent_has_no_closed_form():
    assert _closed_form(numpy.array([math.isqrt(extent) for extent in range(4, 200)]), 4) is None


def test_a_table_of_two_extents():
    table = tuple(10 * a + b for a in range(2, 5) for b in range(3, 7))
    assert all(lookup(table, (a, 2, 3), (b, 3, 4)) == 10 * a + b for a in range(2, 5) for b in range(3, 7))


def test_an_automatic_dimension_by_floats():
    """torch.export checks no guard of Dim.AUTO."""
    auto = Dim.AUTO(min=6, max=40)
    with interpreted():
        compiled = ahead_of(lambda x: x[:, :, : int(x.shape[2] * 0.5)] + 1, auto, auto)
        for size in SIZES:
            x = torch.randn(1, 2, *size)
            assert_same(compiled(x), x[:, :, : size[0] // 2] + 1)


def test_a_branch_on_a_float_is_refused_with_its_line():
    with pytest.raises(
        ExportError, match=r"0\.5.*dynamic_shapes allows x.shape\[2\] = 6.*test_extents.py:\d+.*integers"
    ):
        ahead_of(lambda x: x + 1 if x.shape[2] * 0.5 > 7.5 else x - 1)


def test_what_an_automatic_dimension_takes_for_granted_is_refused():
    auto = Dim.AUTO(min=6, max=40)
    with pytest.raises(ExportError, match=r"alone, but dynamic_shapes allows.*test_extents.py"):
        ahead_of(lambda x: x + 1 if x.shape[2] % 8 == 0 else x - 1, auto, auto)


def test_too_many_values_for_an_engine_are_refused_with_the_line():
    huge = Dim("height", min=6, max=70_000)
    with pytest.raises(UnsupportedOpError, match=r"from 6 to 70000.*test_extents.py:\d+"):
        ahead_of(lambda x: x[:, :, : int(x.shape[2] ** 0.5)] + 1, huge)


def test_questions_of_a_single_element_are_told(caplog):
    """torch.export takes an extent for 2 or more; that the model asks is said with its line."""
    batch = Dim("batch", min=1, max=8)
    with interpreted():
        model = Function(lambda x: x + 1 if x.shape[0] == 1 else x - 1).eval()
        ahead(model, (torch.randn(3, 4),), {"x": {0: batch}})
        assert "test_extents.py" in caplog.text and "min=2" in caplog.text
        caplog.clear()
        ahead(model, (torch.randn(3, 4),), {"x": {0: Dim("batch", min=2, max=8)}})
        ahead(Function(lambda x: x * 2).eval(), (torch.randn(3, 4),), {"x": {0: batch}})
        assert "min=2" not in caplog.text


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("model", ALL)
def test_extents_on_the_gpu(model, device):
    import bridge

    model = model().eval()
    compiled = bridge.compile(
        model, (torch.randn(1, 2, 16, 18, device=device),), dynamic_shapes={"x": {2: HEIGHT, 3: WIDTH}}
    )
    with torch.device(device):
        for size in SIZES:
            x = torch.randn(1, 2, *size)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-2, atol=1e-2)
