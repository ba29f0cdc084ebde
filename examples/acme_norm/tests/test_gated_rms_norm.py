"""acme_norm::gated_rms_norm against its formula, and engines of the layer around it."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from acme_norm import Mixer, gated_rms_norm

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1,), (3, 7), (1, 1, 1), (2, 5, 100), (0, 8), (4, 1025), (2, 3, 2, 33), (1, 4099)]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def arguments(shape, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, shape, shape[-1:])
    return [torch.randn(each, generator=generator).to(device, dtype) for each in shapes]


def formula(x, gate, weight, eps):
    x, gate, weight = (t.double() for t in (x, gate, weight))
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight * gate / (1 + (-gate).exp())


def check(result, x, gate, weight, eps):
    assert result.dtype == x.dtype and result.is_contiguous()
    tolerance = TOLERANCES[x.dtype]
    torch.testing.assert_close(result.double(), formula(x, gate, weight, eps), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula(shape, dtype, device):
    call = arguments(shape, dtype, device)
    check(gated_rms_norm(*call, 1e-3), *call, 1e-3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_views(device):
    x, gate = torch.randn(4, 3, 20, device=device).chunk(2, -1)
    weight = torch.randn(20, device=device)[::2]
    check(gated_rms_norm(x, gate, weight), x, gate, weight, 1e-6)


def test_shapes_that_do_not_fit():
    x, gate, weight = arguments((2, 8))
    with pytest.raises(ValueError, match=r"shapes \(2, 8\), \(2, 7\), \(8,\), expected \[..., D\]"):
        gated_rms_norm(x, gate[:, 1:], weight)


class Norm(nn.Module):
    def forward(self, x, gate, weight):
        return gated_rms_norm(x, gate, weight, 1e-3)


@pytest.mark.parametrize("target", ["sm86", "sm120"])
def test_engine(target):
    """One engine with the op as a plugin, that nothing declares."""
    bridge = pytest.importorskip("bridge")
    sizes = {0: Dim("batch", min=1, max=8), 1: Dim("length", min=1, max=512)}
    net = bridge.compile(Mixer().eval(), (torch.randn(2, 50, 64),), dynamic_shapes=(sizes,), target=target)
    ((plugin, count),) = net.plugin_counts().items()
    assert plugin.startswith("acme_norm::gated_rms_norm") and count == 1


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_engine_against_eager(dtype):
    bridge = pytest.importorskip("bridge")
    rows, width = Dim("rows", min=1, max=64), Dim("width", min=1, max=3000)
    sizes = ({0: rows, 1: width}, {0: rows, 1: width}, {0: width})
    net = bridge.compile(Norm().eval(), tuple(arguments((8, 512), dtype, "cuda")), dynamic_shapes=sizes)
    for shape in [(1, 1), (64, 3000), (3, 7), (1, 1025), (64, 1), (5, 2048), (17, 333), (2, 16), (31, 1024), (7, 2999)]:
        call = arguments(shape, dtype, "cuda")
        check(net(*call), *call, 1e-3)
