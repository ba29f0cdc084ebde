import math

import pytest
import torch
import torch.nn.functional as F
from draw import seeded

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import check_export

X = torch.randn(4, 7, generator=seeded(0)) * 4


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, F.relu(X)),
        ({"negative_slope": 0.01}, F.leaky_relu(X)),
        ({"max_value": 6.0}, F.relu6(X)),
        ({"max_value": math.inf}, F.relu(X)),
        ({"negative_slope": 0.2, "max_value": 1.5}, F.leaky_relu(X, 0.2).clamp(max=1.5)),
    ],
)
def test_family(kwargs, expected):
    torch.testing.assert_close(bridge.relu(X, **kwargs), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("limit", [1e300, -1e300, 3.4e38, 1e39, -1e39, 65504.0])
def test_limits_that_float32_does_not_hold(limit, dtype):
    """What a kernel makes of them, which compares in float32; float64 holds them."""
    x = torch.tensor([-math.inf, -1e4, -0.5, 0.0, 0.5, 1e4, math.inf, math.nan], dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    most = torch.tensor(limit, dtype=torch.float64).to(wide)
    expected = torch.where(x < 0, 0.25 * x.to(wide), x.to(wide)).minimum(most).to(dtype)
    torch.testing.assert_close(bridge.relu(x, 0.25, limit), expected, rtol=0, atol=0, equal_nan=True)


def test_nan_and_infinity():
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    assert torch.equal(bridge.relu(x, 0.5, 3.0).isnan(), x.isnan())
    assert bridge.relu(x, 0.5, 3.0)[1:].tolist() == [3.0, -math.inf, 0.0]
    assert bridge.relu(x)[1] == math.inf


@pytest.mark.parametrize(
    ("x", "kwargs", "text"),
    [
        (torch.zeros(2, dtype=torch.int32), {}, "relu: x is torch.int32, expected torch.float32"),
        (torch.zeros(2, dtype=torch.bool), {}, "relu: x is torch.bool"),
        (X, {"negative_slope": math.nan}, "must be numbers, got nan and inf"),
        (X, {"max_value": math.nan}, "must be numbers, got 0.0 and nan"),
    ],
)
def test_bad_input(x, kwargs, text):
    with pytest.raises(OpInputError, match=text):
        bridge.relu(x, **kwargs)


def test_bad_attributes_in_cpp():
    with pytest.raises(OpInputError, match="must be numbers"):
        libraries.infer_shapes(OPS["relu"], [(2,)], {"max_value": math.nan})
    with pytest.raises(OpInputError, match='unknown plugin field "slope"'):
        libraries.infer_shapes(OPS["relu"], [(2,)], {"slope": 1.0})
    with pytest.raises(OpInputError, match="negative_slope has 2 values, expected 1"):
        libraries.infer_shapes(OPS["relu"], [(2,)], {"negative_slope": [1.0, 2.0]})
    with pytest.raises(OpInputError, match="negative_slope has plugin field type 6, expected FLOAT32"):
        libraries.infer_shapes(OPS["relu"], [(2,)], {"negative_slope": "steep"})


def test_export():
    batch = torch.export.Dim("batch", min=1, max=64)
    check_export(OPS["relu"], lambda n: [torch.randn(n, 3)], [{0: batch}], negative_slope=0.1, max_value=1.0)


@pytest.mark.gpu
def test_cuda_bad_dtype():
    with pytest.raises(OpInputError, match=r"relu: x is torch\.int32, expected torch\.float32, torch\.float16 or"):
        bridge.relu(torch.zeros(2, dtype=torch.int32, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_nan_and_infinity(dtype):
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0] * 5, dtype=dtype)
    torch.testing.assert_close(bridge.relu(x.cuda(), 0.5, 3.0).cpu(), bridge.relu(x, 0.5, 3.0), equal_nan=True)


@pytest.mark.gpu
def test_cuda_more_elements_than_32_bits_count():
    count = 2**31 + 17
    x = torch.full((count,), -1.0, dtype=torch.float16, device="cuda")
    x[-3:] = 2.0
    y = bridge.relu(x, 0.5)
    assert y[0].item() == y[2**31].item() == -0.5 and y[-3:].tolist() == [2.0] * 3
    assert (y == -0.5).sum().item() == count - 3
