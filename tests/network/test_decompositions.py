"""What bridge takes apart before conversion, and what it leaves as it is."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from oracle import ahead, assert_same, interpreted, just_in_time

import bridge
from bridge.tensorrt.decompositions import arithmetic, shapes

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def test_views_that_say_the_same_otherwise():
    x = torch.randn(4, 5, 1, 1)
    assert torch.equal(shapes.as_strided(x, (4, 5, 1, 1), (5, 1, 5, 5)), x)
    for size, stride, offset in (((4, 5, 1, 1), (1, 4, 1, 1), 0), ((4, 5), (5, 1), 0), ((4, 5, 1, 1), (5, 1, 1, 1), 1)):
        assert shapes.as_strided(x, size, stride, offset) is NotImplemented


def test_empty_tensors_of_one_dimension_leave_a_concatenation():
    x, empty = torch.randn(2, 3, 4), torch.tensor([])
    for tensors, dim in (([empty, x], -2), ([x, empty, x, empty], 1), ([empty, x[:0]], 0)):
        found = shapes.cat(tensors, dim)
        assert torch.equal(found, torch.cat(tensors, dim)) and found.data_ptr() != x.data_ptr()
    for tensors in ([x, x], [x[:0], x], [empty, empty], [empty, x[0, 0]], [empty.double(), x]):
        assert shapes.cat(tensors) is NotImplemented


WHOLE = {"stride": [2], "padding": [0], "dilation": [1], "transposed": False, "output_padding": [0], "groups": 1}


@pytest.mark.parametrize("window", [(3,), (2, 3), (1, 5), (2, 1, 2)])
@pytest.mark.parametrize("bias", [None, torch.randn(5)])
def test_a_window_over_the_whole_map_is_a_product(window, bias):
    x, weight = torch.randn(4, 6, *window), torch.randn(5, 6, *window)
    given = {name: value * len(window) if isinstance(value, list) else value for name, value in WHOLE.items()}
    found = arithmetic.convolution(x, weight, bias, **given)
    torch.testing.assert_close(found, torch.ops.aten.convolution(x, weight, bias, **given))
    assert found.shape == (4, 5, *[1] * len(window))


@pytest.mark.parametrize(
    ("size", "weight", "changes"),
    [
        ((6, 2, 3), (5, 6, 2, 2), {}),
        ((6, 1, 1), (5, 6, 1, 1), {}),
        ((6, 2, 3), (5, 6, 2, 3), {"padding": [0, 1]}),
        ((6, 2, 3), (4, 3, 2, 3), {"groups": 2}),
        ((6, 2, 3), (6, 5, 2, 3), {"transposed": True}),
        ((6, 2, 3), (5, 6, 2, 3), {"dilation": [2, 2], "padding": [1, 2]}),
    ],
)
def test_other_convolutions_are_left(size, weight, changes):
    given = {name: value * 2 if isinstance(value, list) else value for name, value in WHOLE.items()} | changes
    assert arithmetic.convolution(torch.randn(4, *size), torch.randn(weight), None, **given) is NotImplemented


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_scaled_products_added_in_place(dtype):
    """torch.compile writes them as fused multiply-adds since torch 2.14."""

    def added(x, y, z):
        return x.clone().addcmul_(y, z, value=0.3), x.clone().addcdiv_(y, z, value=0.3), x.clone().add_(y, alpha=3)

    x, y, z = ((torch.rand(3, 4) + 1).to(dtype) for _ in range(3))
    with interpreted():
        assert_same(just_in_time(added)(x, y, z), added(x, y, z))


def test_products_of_16_bits_are_not_rounded_before_the_sum():
    a = torch.tensor([1 + 2**-10], dtype=torch.float16)
    for factor in (a, a.item()):
        assert arithmetic.fused_multiply_add(a, factor, -(a * a)).item() == 2**-20


def test_a_window_over_the_whole_map_in_an_engine():
    model = torch.nn.Conv2d(6, 5, (2, 3)).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    compiled = bridge.compile(model, (torch.randn(2, 6, 2, 3),), dynamic_shapes=({0: batch},), target="sm86")
    types = [layer["type"] for layer in compiled.layers]
    assert "MATRIX_MULTIPLY" in types and "CONVOLUTION" not in types and compiled.outputs[0].shape == (-1, 5, 1, 1)


class Growing(torch.nn.Module):
    """A cache that begins empty, as transformers' do."""

    def forward(self, x):
        cache = torch.tensor([], dtype=x.dtype)
        return torch.cat([cache, x.relu()], dim=-2)


def test_a_cache_that_begins_empty_in_an_engine():
    shapes = {"x": {1: torch.export.Dim("length", min=1, max=4)}}
    compiled = bridge.compile(Growing().eval(), (torch.randn(2, 3, 4),), dynamic_shapes=shapes, target="sm86")
    assert compiled.outputs[0].shape == (2, -1, 4)
    assert "CONCATENATION" not in {layer["type"] for layer in compiled.layers}


class Pooled(torch.nn.Module):
    """Pooling by torch's composite operators: those of channels-last maps are views by strides."""

    def forward(self, x):
        y = F.avg_pool2d(x, 2, ceil_mode=True).to(memory_format=torch.channels_last)
        return F.adaptive_avg_pool2d(y.relu(), 1)


def test_in_an_engine():
    """Dynamic extents too, where windows fit whichever they are."""
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=4), 2: 2 * torch.export.Dim("half", min=2, max=8)}}
    x = torch.randn(2, 8, 6, 4)
    compiled = bridge.compile(Pooled().eval(), (x,), dynamic_shapes=shapes, target="sm86", cache=False)
    assert compiled.outputs[0].shape == (-1, 8, 1, 1)
    assert sum(layer["type"] == "POOLING" for layer in compiled.layers) >= 1


@pytest.mark.parametrize("bias", [None, torch.randn(4)])
def test_transposed_convolutions_that_add_more_than_they_cut(bias):
    for shape, window, padding, added in (
        ((5,), (3,), (0,), (2,)),
        ((4, 5), (3, 2), (1, 0), (1, 2)),
        ((3, 3), (2, 2), (0, 1), (2, 0)),
    ):
        x, weight, steps = torch.randn(2, 6, *shape), torch.randn(6, 2, *window), [3] * len(shape)
        given = x, weight, bias, steps, padding, [1] * len(shape), True, added, 2
        torch.testing.assert_close(arithmetic.convolution(*given), torch.ops.aten.convolution(*given))
    assert arithmetic.convolution(x, weight, bias, steps, (1, 1), [1, 1], True, (1, 0), 2) is NotImplemented


def test_their_shape_in_a_network():
    model, x = torch.nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1).eval(), torch.randn(1, 2, 4, 5)
    with interpreted():
        compiled = ahead(model, (x,), ({2: torch.export.Dim("height", min=2, max=9)},))
        for height in (4, 2, 9):
            x = torch.randn(1, 2, height, 5)
            assert_same(compiled(x), model(x), rtol=1e-4, atol=1e-5)


class Nearest(torch.nn.Module):
    """Pixels of which some lie at the edge of two: 17 / 1.7, and 8.5 / 1.7."""

    def forward(self, x):
        return tuple(
            F.interpolate(x, scale_factor=(factor, 2), mode=mode)
            for mode in ("nearest", "nearest-exact")
            for factor in (1.7, 0.3)
        )


def test_nearest_pixels_of_any_width():
    width = torch.export.Dim("width", min=4, max=64)
    with interpreted():
        compiled = ahead(Nearest().eval(), (torch.randn(1, 2, 8, 5),), ({2: width},))
        for extent in range(5, 65, 4):
            x = torch.randn(1, 2, extent, 5)
            assert all(map(torch.equal, compiled(x), Nearest()(x))), extent
