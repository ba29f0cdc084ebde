"""Pooling that is configured for a largest batch and called with others: every result is PyTorch's, at every extent."""

import random
from importlib.util import find_spec

import oracle
import pytest
import torch
import torch.nn.functional as F
from samples.detection.roi_pool import region_arguments
from torch import nn

import bridge

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")

CHANNELS = 3


class Maps(nn.Module):
    """x [B, C, H, W] pooled by uneven windows, by power means and by softmax."""

    def forward(self, x):
        power_means = F.adaptive_avg_pool2d(x.clamp(min=1e-6).pow(3.0), (2, 3)).pow(1 / 3)
        soft = F.avg_pool2d(x.exp() * x, 3, 2, ceil_mode=True) / F.avg_pool2d(x.exp(), 3, 2, ceil_mode=True)
        return F.adaptive_avg_pool2d(x, (3, 5)), F.adaptive_max_pool2d(x, (6, 2)), power_means, soft


class Pyramid(nn.Module):
    """Pyramids of means, as PSPNet's, and of maxima, as of spatial pyramid pooling; and maxima put back."""

    def forward(self, x):
        sizes = 1, 2, 3, 6
        means = [F.interpolate(F.adaptive_avg_pool2d(x, size), size=x.shape[2:], mode="bilinear") for size in sizes]
        values, places = F.max_pool2d(x, 2, 2, return_indices=True)
        unpooled = F.max_unpool2d(values, places, 2, 2, output_size=x.shape[2:])
        return *means, torch.cat([F.adaptive_max_pool2d(x, size).flatten(1) for size in sizes], 1), unpooled


class Sets(nn.Module):
    """Sets of rows [B, N, C] of which the first `lengths` count; the same rows as sets one after the other."""

    def forward(self, rows, lengths):
        inside = (torch.arange(rows.shape[1], device=rows.device) < lengths[:, None])[..., None]
        mean = torch.where(inside, rows, 0).sum(1) / lengths[:, None].clamp(min=1)
        flat = rows.reshape(-1, rows.shape[2])
        segments = [torch.segment_reduce(flat, kind, lengths=lengths, unsafe=True) for kind in ("mean", "max")]
        return mean, torch.where(inside, rows, -torch.inf).amax(1), *segments


class Regions(nn.Module):
    """torchvision's pooling of regions [K, 5] of x [B, C, H, W]."""

    def __init__(self):
        super().__init__()
        ops, settings = pytest.importorskip("torchvision.ops"), ((2, 3), 0.25)
        self.pools = nn.ModuleList([ops.RoIPool(*settings), ops.PSRoIAlign(*settings, 2), ops.PSRoIPool(*settings)])
        self.align = ops.RoIAlign(*settings, 2, aligned=True)

    def forward(self, x, rois):
        return self.align(x, rois), *(pool(x, rois) for pool in self.pools)


def maps(batch, height, width=9, device="cpu"):
    return (torch.randn(batch, CHANNELS, height, width, device=device),)


def sets(batch, count, device="cpu"):
    lengths = torch.randint(0, count + 1, (batch,), device=device)
    return torch.randn(batch, count, CHANNELS, device=device), lengths


def regions(batch, height, count, device="cpu"):
    return tuple(tensor.to(device) for tensor in region_arguments(count, batch, 12, (height, 11), seed=height))


def dynamic_shapes(make, ranges):
    """Of what `make` makes, whose batch and extents have these ranges (least, most)."""
    dims = [torch.export.Dim(f"n{place}", min=least, max=most) for place, (least, most) in enumerate(ranges)]
    if make is sets:
        return {0: dims[0], 1: dims[1]}, {0: dims[0]}
    if make is regions:
        return {0: dims[0], 2: dims[1]}, {0: dims[2]}
    return ({0: dims[0], **dict(enumerate(dims[1:], 2))},)


def example(make, ranges, **where):
    return make(*(min(most, least + 2) for least, most in ranges), **where)


CALLS = {
    "maps": (Maps, maps, [(0, 9), (6, 40)], [(9, 40), (2, 9), (1, 6), (0, 13), (5, 31)]),
    "sets": (Sets, sets, [(0, 16), (1, 20)], [(16, 20), (1, 1), (0, 7), (5, 12)]),
    "regions": (Regions, regions, [(1, 9), (4, 40), (0, 50)], [(9, 40, 50), (1, 4, 1), (3, 9, 0), (2, 17, 33)]),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_batch_of_a_profile_and_an_empty_one(name):
    model, make, ranges, calls = CALLS[name]
    with oracle.interpreted():
        found = oracle.ahead(model().eval(), example(make, ranges), dynamic_shapes(make, ranges))
        for extents in calls:
            args = make(*extents)
            oracle.assert_same(found(*args), model()(*args), rtol=1e-4, atol=1e-5)


def test_an_extent_whose_half_has_one_value():
    """torch.export would fail over the range that it suggests for the half."""
    ranges = [(2, 26), (7, 9), (7, 8)]
    with oracle.interpreted():
        found = oracle.ahead(Pyramid().eval(), example(maps, ranges), dynamic_shapes(maps, ranges))
        for extents in zip(*ranges, strict=True):
            args = maps(*extents)
            oracle.assert_same(found(*args), Pyramid()(*args), rtol=1e-4, atol=1e-5)


LEAST = {maps: (1, 6, 7), sets: (1, 1), regions: (1, 4, 1)}


def random_ranges(rng, make):
    least = [low + rng.choice((0, 0, 1, 5)) for low in LEAST[make]]
    return [(low, low + rng.choice((1, 2, 7, 24))) for low in least]


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("seed", range(50))
def test_random_profiles_and_shapes(seed, device):
    model, make = ((Maps, maps), (Pyramid, maps), (Sets, sets), (Regions, regions))[seed % 4]
    rng = random.Random(seed)
    ranges = random_ranges(rng, make)
    args = example(make, ranges, device=device)
    found = bridge.compile(model().eval(), args, dynamic_shapes=dynamic_shapes(make, ranges), tf32=False)
    corners = [[most for _, most in ranges], [least for least, _ in ranges]]
    for extents in [*corners, *([rng.randint(*each) for each in ranges] for _ in range(4))]:
        args = make(*extents, device=device)
        oracle.assert_same(found(*args), model()(*args), rtol=1e-3, atol=1e-3)
