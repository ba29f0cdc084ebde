"""What was wrong in silence once, in real engines on a GPU against eager: each kind at the door where it went wrong."""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_same
from programs import STEPS, Program
from test_in_place import WRITES, Caches, Experts, Model
from torch import nn
from torch.export import Dim

import bridge

pytestmark = pytest.mark.gpu(engines=True)
X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(1))
TOLERANCE = {"rtol": 2e-3, "atol": 2e-3}  # products may be TF32


@pytest.fixture(autouse=True)
def fresh(fresh_dynamo):
    pass


def check(model, compiled, *inputs):
    """Eager runs a copy, so that a write of its own to a buffer is not what the engine reads."""
    eager = copy.deepcopy(model)
    for args in inputs:
        args = args if isinstance(args, tuple) else (args,)
        wanted = eager(*(x.clone() for x in args))
        assert_same(compiled(*(x.clone() for x in args)), wanted, **TOLERANCE)


def in_time(model, dynamic=None):
    return torch.compile(model, backend="bridge", dynamic=dynamic, options={"cache": False})


@pytest.mark.parametrize("name", WRITES)
def test_writes_in_place(name, device):
    model = Model(WRITES[name]).eval().to(device)
    check(model, in_time(model), X[:3, 0].to(device))


@pytest.mark.parametrize("model", [Experts, Caches])
def test_models_that_write(model, device):
    model = model().eval().to(device)
    check(model, in_time(model), X[:3, 0].to(device))


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_programs(name, device):
    model = Program(1, [name]).eval().to(device)
    check(model, bridge.compile(model, (X.to(device),), dynamic_shapes=({0: Dim("b", min=2, max=8)},), cache=False),
          X.to(device), OTHER.to(device))  # fmt: skip


@pytest.mark.parametrize("seed", range(100, 112))
def test_random_programs(seed, device):
    model = Program(seed).eval().to(device)
    check(model, in_time(model, dynamic=False), X.to(device))


class Half(nn.Module):
    def forward(self, x):
        return x[:, :, : int(x.shape[2] * 0.5)] * 2.0


class Grown(nn.Module):
    def forward(self, x):
        h, w = x.shape[2:]
        return F.interpolate(x, size=(int(h * 1.5), int(w * 1.5)), mode="bilinear")


@pytest.mark.parametrize("model", [Half, Grown])
def test_extents_by_way_of_floats(model, device):
    h = Dim("h", min=4, max=64)
    compiled = bridge.compile(model().eval(), (torch.randn(1, 2, 16, 16, device=device),), dynamic_shapes=({2: h},))
    check(model(), compiled, *(torch.randn(1, 2, n, 16, device=device) for n in (16, 20, 7, 4, 63)))


@pytest.mark.parametrize("size", [1, 3, (5, 2), (7, 7)])
@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])
def test_adaptive_pooling_of_dynamic_maps(layer, size, device):
    model = nn.Sequential(layer(size)).eval()
    shapes = {2: Dim("h", min=4, max=40), 3: Dim("w", min=4, max=40)}
    compiled = bridge.compile(model, (torch.randn(2, 3, 8, 8, device=device),), dynamic_shapes=(shapes,))
    check(model, compiled, *(torch.randn(2, 3, h, w, device=device) for h, w in ((8, 8), (13, 9), (4, 40))))


class EqualIndices(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, index, values):
        return self.function(x.clone(), index, values)


EQUAL = {
    "index_add": lambda x, index, values: x.index_add(0, index, values),
    "index_put": lambda x, index, values: x.index_put((index,), values, accumulate=True),
    "scatter_add": lambda x, index, values: x.scatter_add(0, index[:, None].expand_as(values), values),
    **{
        f"scatter_reduce {name}": lambda x, index, values, name=name: x.scatter_reduce(
            0, index[:, None].expand_as(values), values, name
        )
        for name in ("sum", "mean", "amax", "amin", "prod")
    },
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_indices(name, device):
    model = EqualIndices(EQUAL[name]).eval()
    index = torch.tensor([0, 2, 0, 0, 3], device=device)
    args = torch.randn(4, 6, device=device), index, torch.randn(5, 6, device=device)
    check(model, bridge.compile(model, args), args, (args[0], index.flip(0), args[2]))


def test_nms_at_exact_thresholds(device):
    """Boxes of whole coordinates overlap by fractions that a threshold can equal."""
    torchvision = pytest.importorskip("torchvision")

    class Kept(nn.Module):
        def forward(self, boxes, scores):
            return bridge.nms(boxes, scores, 0.5), bridge.nms(boxes, scores, 1 / 3), bridge.nms(boxes, scores, 0.7)

    def boxes(seed):
        source = torch.Generator().manual_seed(seed)
        corner = torch.randint(0, 12, (40, 2), generator=source).float()
        return torch.cat((corner, corner + torch.randint(1, 8, (40, 2), generator=source)), 1)

    scores = torch.linspace(1, 0, 40)
    compiled = bridge.compile(Kept().eval(), (boxes(0).to(device), scores.to(device)))
    for seed in range(300):
        found = compiled(boxes(seed).to(device), scores.to(device))
        for kept, threshold in zip(found, (0.5, 1 / 3, 0.7), strict=True):
            assert torch.equal(kept.cpu(), torchvision.ops.nms(boxes(seed), scores, threshold)), (seed, threshold)
