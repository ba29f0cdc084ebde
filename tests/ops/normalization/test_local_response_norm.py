"""local_response_norm: PyTorch's results, squares that overflow 16 bits, and its kernels with windows of every size."""

import pytest
import torch
import torch.nn.functional as F
from samples.normalization.local_response_norm import random_call, response_arguments
from torch.export import Dim

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import DTYPES, cast, check_cuda, check_export

OP = OPS["local_response_norm"]
READING, OWN = 0, -1  # tactics
X = torch.randn(2, 6, 5, 7)


def test_is_pytorchs():
    for seed in range(40):
        (x,), kwargs = random_call(seed)
        expected = F.local_response_norm(x, **kwargs)
        torch.testing.assert_close(bridge.local_response_norm(x, **kwargs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [5, 6, 100, 10**12])
def test_windows_beyond_the_channels(size):
    x = torch.randn(2, 3, 4, 5)
    wide = F.local_response_norm(x.double(), min(size, 1000), alpha=float(min(size, 1000)))
    found = bridge.local_response_norm(x, size, alpha=float(size))
    torch.testing.assert_close(found.double(), wide, rtol=1e-5, atol=1e-6)


def large(dtype):
    """Squares of it are infinite in float16."""
    return response_arguments((2, 12, 9, 11))[0].mul(3000).to(dtype)


def test_squares_do_not_overflow():
    x = large(torch.float16)
    exact = F.local_response_norm(x.double(), 5, 1.0)
    torch.testing.assert_close(bridge.local_response_norm(x, 5, 1.0).double(), exact, rtol=1e-3, atol=1e-3)


def test_what_is_not_finite_stays_in_its_windows():
    x = torch.ones(1, 9, 1, 2)
    x[0, 4, 0, 0] = torch.nan
    found = bridge.local_response_norm(x, 3)
    assert (
        found.isnan()[0, :, 0, 0].tolist() == [False] * 3 + [True] * 3 + [False] * 3 and not found[..., 1].isnan().any()
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ([X[0, 0]], {}, r"x must have 3 dimensions or more, got shape \(5, 7\)"),
        ([X], {"size": 0}, "size is 0, expected 1 or more"),
        ([X], {"alpha": float("inf")}, "alpha is inf, expected a finite number"),
        ([X], {"beta": float("nan")}, "beta is nan"),
        ([X], {"k": float("-inf")}, "k is -inf"),
        ([X.int()], {}, "x is torch.int32"),
    ],
)
def test_bad_input(args, kwargs, text):
    with pytest.raises(OpInputError, match=text):
        bridge.local_response_norm(*args, **kwargs)


def test_exports_with_dynamic_extents():
    batch, height, width = (Dim(name, min=1, max=64) for name in ("batch", "height", "width"))
    check_export(
        OP, lambda n: response_arguments((n, 8, n + 2, n + 5)), [{0: batch, 2: height, 3: width}], size=4, alpha=0.5
    )


@pytest.mark.gpu
@pytest.mark.parametrize("number", [READING, OWN])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 11, 100])
@pytest.mark.parametrize("shape", [(2, 97, 27, 27), (1, 192, 28, 28), (3, 5, 8), (70, 33, 13, 5)])
def test_cuda_windows(shape, size, dtype, number):
    with libraries.tactic("local_response_norm", number):
        check_cuda(OP, dtype, *response_arguments(shape), size=size, alpha=1.0, k=2.0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_squares_do_not_overflow(dtype):
    x = large(dtype)
    exact = OP.run(*cast([x], torch.float64), 5, 1.0)
    found = bridge.local_response_norm(x.cuda(), 5, 1.0).double().cpu()
    torch.testing.assert_close(found, exact, rtol=2 * torch.finfo(dtype).eps + 1e-5, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("number", [READING, OWN])
def test_cuda_keeps_what_is_not_finite_in_its_windows(number):
    x = torch.randn(2, 64, 9, 9, device="cuda")
    x[0, 7, 3, 2], x[1, 63, 8, 8] = torch.nan, torch.inf
    with libraries.tactic("local_response_norm", number):
        found = bridge.local_response_norm(x)
    assert torch.equal(found.isnan().cpu(), OP.run(x.cpu()).isnan())
