"""check_cuda on a CPU that stands for a GPU: what a kernel does wrong is found and named."""

import pytest
import torch
from own_ops import forgotten
from torch import Tensor

import bridge
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.testing import arguments, check_cuda, check_cuda_layouts, check_error, kernels, poisoned

X = torch.randn(5, 7)


@pytest.fixture(scope="module")
def doubled():
    """An op whose CPU implementation, which tests replace, stands for its kernel; its reference does not change."""
    with forgotten():

        @bridge.op("kernel_check::doubled")
        def doubled(x: Tensor) -> Tensor:
            return x * 2

        yield OPS["kernel_check::doubled"]


@pytest.fixture
def kernel(doubled, monkeypatch):
    """Takes what to compute instead of the kernel."""
    monkeypatch.setattr(kernels, "cast", lambda args, dtype=None, device=None: arguments.cast(args, dtype))

    def replace(function):
        LIBRARIES["kernel_check"].fragment.impl("doubled", function, "CPU", allow_override=True)
        return doubled

    yield replace
    replace(doubled.run)


@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_right_kernel(kernel, dtype):
    check_cuda(kernel(lambda x: (x.float() * 2).to(x.dtype).contiguous()), dtype, X)
    check_cuda_layouts(kernel(lambda x: (x.float() * 2).to(x.dtype).contiguous()), dtype, X)


def half_written(x):
    y = torch.empty(x.shape, dtype=x.dtype)
    y[:3] = x[:3] * 2
    return y


def as_it_lies(x):
    """Takes the elements in the order of memory, as if x was contiguous."""
    flat = x.as_strided((x.numel(),), (1,))
    return (flat * 2).view(x.shape)


def aligned_alone(x):
    return x.contiguous() * (3 if x.storage_offset() else 2)


WRONG = {
    "elements that are never written": (half_written, "NaN where there should be none"),
    "an error": (lambda x: x * 2.01, r"output 0, torch.float32: error 0\.\d+, allowed 2 \* "),
    "another dtype": (lambda x: (x * 2).double(), "it is torch.float64|and the reference's is torch.float32"),
    "another shape": (lambda x: (x * 2)[:4].contiguous(), r"it is \[4, 7\], the reference's \[5, 7\]"),
    "other strides": (lambda x: (x * 2).t().contiguous().t(), "an output is not contiguous"),
    "an infinity": (lambda x: torch.full_like(x, torch.inf), "error inf"),
}


@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
@pytest.mark.parametrize(("function", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_kernel(kernel, function, text):
    with pytest.raises(AssertionError, match=text):
        check_cuda(kernel(function), torch.float32, X)


@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
@pytest.mark.parametrize(
    ("function", "text"), [(as_it_lies, "strided inputs: .*error"), (aligned_alone, "misaligned inputs: .*error")]
)
def test_a_kernel_that_is_right_for_one_layout(kernel, function, text):
    op = kernel(function)
    check_cuda(op, torch.float32, X)
    with pytest.raises(AssertionError, match=text):
        check_cuda_layouts(op, torch.float32, X)


def test_integers_must_be_equal():
    exact = torch.tensor([1, 2, 3])
    check_error("y", exact, exact, exact.clone())
    with pytest.raises(AssertionError, match="y: 1 of 3 elements differ"):
        check_error("y", exact, exact, torch.tensor([1, 2, 4]))


def test_poison_ends():
    with poisoned():
        assert torch.empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()
