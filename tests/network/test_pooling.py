"""Pooling: windows of different sizes, those that rounding up adds, dilated ones, and the places of maxima."""

import itertools
from importlib.util import find_spec

import oracle
import pytest
import torch
import torch.nn.functional as F

import bridge
from bridge.errors import ExportError
from bridge.graph.torch_patches import pooled_extents
from bridge.tensorrt.decompositions import pooling

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")

DYNAMIC = {2: torch.export.Dim("height", min=7, max=40)}


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (3, 9), (1, 4)])
@pytest.mark.parametrize("out", [(3, 3), (7, 2), (5, 11), (3, 9)])
def test_adaptive_windows_are_those_of_pytorch(size, out):
    x = torch.randn(2, 3, *size)
    found = pooling.adaptive_avg_pool(x, out)
    assert (found is NotImplemented) == all(n % m == 0 for n, m in zip(size, out, strict=True))
    if found is not NotImplemented:
        torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, out))
    values, places = pooling.adaptive_max_pool(x, out)
    expected = F.adaptive_max_pool2d(x, out, return_indices=True)
    assert torch.equal(values, expected[0]) and torch.equal(places, expected[1])


def test_adaptive_windows_of_volumes_and_without_a_batch():
    x = torch.randn(2, 7, 5, 6)
    torch.testing.assert_close(pooling.adaptive_avg_pool(x, (3, 2, 4)), F.adaptive_avg_pool3d(x, (3, 2, 4)))
    expected = F.adaptive_max_pool3d(x, (3, 2, 4), return_indices=True)
    assert all(map(torch.equal, pooling.adaptive_max_pool(x, (3, 2, 4)), expected))


def test_a_mean_of_16_bits_is_rounded_once_and_what_is_infinite_stays_in_its_windows():
    x = torch.full((1, 1, 8, 8), 1000.0, dtype=torch.float16)
    x[..., 0, 0] = torch.inf
    found = pooling.adaptive_avg_pool(x, (3, 3))
    assert found.dtype == torch.float16 and found[0, 0, 0, 0] == torch.inf
    assert (found.flatten()[1:] == 1000).all()


SETTINGS = [
    (2, [3, 2], [2, 3], [1, 0], [1, 1]),
    (2, [2], [3], [1], [1]),  # the last window would start behind the map
    (2, [4, 1], [1, 4], [2, 0], [2, 3]),
    (2, [3], [], [0], [1]),
    (3, [1, 2, 3], [2, 2, 2], [0, 1, 1], [1, 1, 2]),
    (3, [2], [3], [1], [1]),
]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("rank", "kernel", "stride", "padding", "dilation"), SETTINGS)
def test_maxima_and_their_places(rank, kernel, stride, padding, dilation, ceil_mode):
    pool = F.max_pool2d if rank == 2 else F.max_pool3d
    for size, lead in itertools.product(((7, 8, 9), (9, 10, 11)), ((2, 3), (3,))):
        x = torch.randint(-9, 9, (*lead, *size[-rank:])).float()  # with equal maxima: the first one counts
        values, places = pooling.max_pool_with_indices(x, kernel, stride, padding, dilation, ceil_mode, rank=rank)
        expected = pool(x, kernel, stride or None, padding, dilation, ceil_mode, return_indices=True)
        assert torch.equal(values, expected[0]) and torch.equal(places, expected[1])


@pytest.mark.parametrize("divisor", [None, 3])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize(("rank", "kernel", "stride", "padding", "dilation"), SETTINGS)
def test_means(rank, kernel, stride, padding, dilation, count_include_pad, divisor):
    pool = F.avg_pool2d if rank == 2 else F.avg_pool3d
    for size, lead in itertools.product(((7, 8, 9), (9, 10, 11)), ((2, 3), (3,))):
        x = torch.randn(*lead, *size[-rank:])
        settings = kernel, stride, padding, True, count_include_pad, divisor
        expected = pool(x, kernel, stride or None, *settings[2:])
        torch.testing.assert_close(pooling.avg_pool(x, *settings, rank=rank), expected)


def test_what_the_layer_has_is_left_to_it():
    x = torch.randn(1, 2, 8, 8)
    assert pooling.avg_pool(x, [2], [2], [0], False, rank=2) is NotImplemented
    assert pooling.adaptive_avg_pool(x, (4, 2)) is NotImplemented


def test_the_number_of_windows_for_every_extent():
    for n, k, s, ceil in itertools.product(range(7, 15), range(1, 5), range(1, 5), (False, True)):
        pad = k // 2
        expected = F.max_pool1d(torch.zeros(1, 1, n), k, s, pad, ceil_mode=ceil).shape[-1]
        assert pooled_extents.windows(n, k, s, pad, pad, ceil) == expected


class Pools(torch.nn.Module):
    def forward(self, x):
        values, places = F.max_pool2d(x, 2, 2, return_indices=True)
        return (
            F.adaptive_avg_pool2d(x, (3, 5)),
            F.adaptive_max_pool2d(x, (5, 3), return_indices=True),
            F.max_pool2d(x, 3, 2, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            F.max_unpool2d(values * 2, places, 2, 2),
            F.max_pool2d(x, 2, 2, dilation=2),
        )


@pytest.mark.parametrize("dynamic_shapes", [None, (DYNAMIC,)], ids=["fixed", "dynamic"])
def test_pooling_in_a_network(dynamic_shapes):
    model, x = Pools().eval(), torch.randn(2, 3, 10, 8)
    with oracle.interpreted():
        compiled = oracle.ahead(model, (x,), dynamic_shapes)
        for size in [(10, 8)] if dynamic_shapes is None else [(10, 8), (22, 8)]:
            x = torch.randn(2, 3, *size)
            oracle.assert_same(compiled(x), model(x))


def test_pooling_of_vectors_and_volumes_in_a_network():
    class Model(torch.nn.Module):
        def forward(self, x):
            volume = x.unsqueeze(1)
            vectors = (
                F.adaptive_avg_pool1d(x, 5),
                F.adaptive_max_pool1d(x, 5),
                F.max_pool1d(x, 3, 2, ceil_mode=True),
                F.avg_pool1d(x, 2, 2, ceil_mode=True),
            )
            return *vectors, F.adaptive_avg_pool2d(volume, (2, 3)), F.max_pool2d(volume[0], 2)

    x = torch.randn(2, 3, 8)
    with oracle.interpreted():
        oracle.assert_same(oracle.ahead(Model().eval(), (x,))(x), Model()(x))


class Maxima(torch.nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x[0], 2, 2, ceil_mode=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_dynamic_channels_and_whole_numbers(dtype):
    """TensorRT's layer takes no whole numbers, and torch_tensorrt's converter no dynamic channels."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=4), 1: torch.export.Dim("channels", min=1, max=9)},)
    with oracle.interpreted():
        compiled = oracle.ahead(Maxima().eval(), (torch.randint(-9, 9, (2, 3, 10, 7)).to(dtype),), shapes)
        for batch, channels in ((4, 9), (1, 1), (3, 2)):
            x = torch.randint(-9, 9, (batch, channels, 10, 7)).to(dtype)
            oracle.assert_same(compiled(x), Maxima()(x))


def test_maxima_whose_places_no_one_asks_for_are_the_layers():
    class Model(torch.nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 3, 2, 1)

    x = torch.randn(2, 3, 15, 17)
    compiled = bridge.compile(Model().eval(), (x,), dynamic_shapes=(DYNAMIC,), target="sm86")
    assert [layer["type"] for layer in compiled.layers] == ["POOLING"]


def test_an_engine_with_windows_of_a_dynamic_extent():
    class Model(torch.nn.Module):
        def forward(self, x):
            return F.adaptive_avg_pool2d(x, (3, 5)), F.max_pool2d(x, 3, 2, ceil_mode=True, return_indices=True)

    x = torch.randn(2, 3, 10, 8)
    compiled = bridge.compile(Model().eval(), (x,), dynamic_shapes=(DYNAMIC,), target="sm86")
    assert compiled.outputs[0].shape == (2, 3, 3, 5)


def test_a_map_too_small_for_its_window_is_named():
    with pytest.raises(ExportError, match="Output size is too small"):
        bridge.compile(torch.nn.MaxPool2d(3).eval(), (torch.randn(1, 1, 2, 2),), target="sm86")


@pytest.mark.gpu(engines=True)
def test_pooling_on_a_gpu(device):
    model, x = Pools().eval(), torch.randn(2, 3, 10, 8, device=device)
    compiled = bridge.compile(model, (x,), dynamic_shapes=(DYNAMIC,))
    for size in ((10, 8), (22, 8), (40, 8)):
        x = torch.randn(2, 3, *size, device=device)
        oracle.assert_same(compiled(x), model(x))
