"""What bridge takes apart before conversion, and what it leaves as it is."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

import bridge
from bridge.tensorrt import decompositions

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((8, 6), 2, 2, 0), ((9, 7), 3, 2, 0), ((8, 5), (2, 3), (2, 1), 0), ((6, 6), 2, None, 0), ((7, 7), 3, 1, 1)],
)
def test_pooling_that_rounding_up_does_not_change(size, kernel, stride, padding):
    x = torch.randn(2, 3, *size)
    pair = [[n] * 2 if isinstance(n, int) else [*n] for n in (kernel, padding)]
    steps = [] if stride is None else [stride] * 2 if isinstance(stride, int) else [*stride]
    found = decompositions.avg_pool2d(x, pair[0], steps, pair[1], True)
    assert torch.equal(found, F.avg_pool2d(x, kernel, stride, padding, ceil_mode=True))


def test_pooling_that_it_changes_or_does_not_round_up_is_left():
    assert decompositions.avg_pool2d(torch.randn(1, 1, 7, 8), [2], [2], [0], True) is NotImplemented
    assert decompositions.avg_pool2d(torch.randn(1, 1, 8, 8), [2], [2], [0], False) is NotImplemented


def test_views_that_say_the_same_otherwise():
    x = torch.randn(4, 5, 1, 1)
    assert torch.equal(decompositions.as_strided(x, (4, 5, 1, 1), (5, 1, 5, 5)), x)
    for size, stride, offset in (((4, 5, 1, 1), (1, 4, 1, 1), 0), ((4, 5), (5, 1), 0), ((4, 5, 1, 1), (5, 1, 1, 1), 1)):
        assert decompositions.as_strided(x, size, stride, offset) is NotImplemented


def test_empty_tensors_of_one_dimension_leave_a_concatenation():
    x, empty = torch.randn(2, 3, 4), torch.tensor([])
    for tensors, dim in (([empty, x], -2), ([x, empty, x, empty], 1), ([empty, x[:0]], 0)):
        found = decompositions.cat(tensors, dim)
        assert torch.equal(found, torch.cat(tensors, dim)) and found.data_ptr() != x.data_ptr()
    for tensors in ([x, x], [x[:0], x], [empty, empty], [empty, x[0, 0]], [empty.double(), x]):
        assert decompositions.cat(tensors) is NotImplemented


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
