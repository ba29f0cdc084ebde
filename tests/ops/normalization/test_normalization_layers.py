"""Normalisation by TensorRT's own layers, where no pass replaces it."""

from importlib.util import find_spec

import oracle
import pytest
import torch
from torch import nn
from torch.export import Dim

from bridge.testing import DTYPES

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")

BATCH, HEIGHT, WIDTH = Dim("batch", min=1, max=8), Dim("height", min=4, max=64), Dim("width", min=4, max=64)
INSTANCE_NORMS = [nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d]


def with_values(model):
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        tensor.data = torch.rand_like(tensor) + 0.5
    return model.eval()


def check(model, x, shapes=None):
    with oracle.interpreted():
        found = oracle.ahead(model, (x,), shapes, passes=False)(x)
    exact = model.double()(x.double())
    eps = torch.finfo(x.dtype).eps
    torch.testing.assert_close(found.double(), exact, rtol=4 * eps, atol=max(4 * eps, 1e-5))  # each layer rounds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_group_norm(rank, dtype):
    x = torch.randn(2, 12, *(9, 11, 7)[:rank]).to(dtype)
    shapes = {0: BATCH, 2: HEIGHT, 3: WIDTH}
    check(with_values(nn.GroupNorm(4, 12)).to(dtype), x, ({axis: shapes[axis] for axis in shapes if axis < x.dim()},))


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_instance_norm(rank, affine, running):
    x = torch.randn(2, 6, *(9, 11, 7)[:rank])
    shapes = {0: BATCH, 2: HEIGHT, 3: WIDTH}
    model = with_values(INSTANCE_NORMS[rank - 1](6, affine=affine, track_running_stats=running))
    check(model, x, ({axis: shapes[axis] for axis in shapes if axis < x.dim()},))


@pytest.mark.parametrize(("size", "shape"), [(5, (2, 7, 9, 11)), (4, (2, 7, 9)), (9, (2, 3, 4, 5, 6)), (1, (2, 3, 4))])
def test_local_response_norm(size, shape):
    check(
        with_values(nn.LocalResponseNorm(size, alpha=0.3, beta=0.6, k=2.0)),
        torch.randn(shape) * 3,
        ({0: BATCH, 2: HEIGHT},),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_batch_norm_without_running_statistics(rank, affine, dtype):
    """In eval mode, too, it normalises by the batch at hand: torch_tensorrt's converter took 0 and 1."""
    norm = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][rank]
    model = with_values(norm(6, affine=affine, track_running_stats=False)).to(dtype)
    x = (3 * torch.randn(5, 6, *(9, 11, 7)[:rank]) + 4).to(dtype)
    shapes = {0: Dim("batch", min=2, max=8), 2: HEIGHT, 3: WIDTH}
    check(model, x, ({axis: shapes[axis] for axis in shapes if axis < x.dim()},))


def test_batch_norm_of_the_batch_is_what_training_computes():
    class Model(nn.Module):
        def forward(self, x):
            return nn.functional.batch_norm(x, None, None, training=True, eps=1e-3)

    check(Model().eval(), 2 * torch.randn(4, 3, 5, 7) + 5)
