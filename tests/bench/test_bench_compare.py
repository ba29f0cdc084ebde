"""Errors of a workload's op are measured on the device that it runs on."""

import pytest
import torch

from bridge.bench.measure import compare
from bridge.bench.workload import Workload
from bridge.core.op import OPS
from bridge.testing import DTYPES


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exact_result_is_computed_on_the_gpu(dtype):
    """In float64 for float32, which the op itself does not take there."""
    workload = Workload("relu", "small", str(dtype).removeprefix("torch."))
    errors = compare(workload, [torch.randn(33, 7, device="cuda", dtype=dtype)], {"negative_slope": 0.1})
    assert errors["right"] and OPS["relu"].has_cuda_kernel
