"""Products and sums of several extents that torch computes anew, as for the strides of FlexAttention's masks."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx

from bridge.graph.torch_patches.extents_in_pairs import extents_in_pairs


def product(shape):
    return shape[0] * shape[1] * shape[2] * shape[3]


def total(shape):
    return shape[0] + shape[1] + shape[2] + 3


def several(shape):
    return (shape[0] + shape[1] + shape[2]) * shape[1] * shape[3] - 2 * shape[0] * shape[3]


@pytest.mark.parametrize("extent", [product, total, several])
def test_an_extent_whose_computation_was_not_traced(extent):
    def zeros(x):
        with disable_proxy_modes_tracing():
            count = extent(x.shape)
        return x.new_zeros((count,))

    with extents_in_pairs():
        traced = make_fx(zeros, tracing_mode="symbolic")(torch.ones(2, 3, 4, 5))
    for shape in [(2, 3, 4, 5), (6, 5, 7, 3)]:
        x = torch.ones(shape)
        torch.testing.assert_close(traced(x), zeros(x))
