"""The shapes of sampled maps are those of torch's decomposition, which no trace needs."""

import pytest
import torch
import torch.nn.functional as F
from torch._decomp import decompositions
from torch._subclasses import fake_tensor
from torch.export import Dim

from bridge.graph.capture import export
from bridge.graph.torch_patches.sampling import sampling_by_shapes

SIZES = ({0: Dim("batch", min=1, max=8), 2: Dim("height", min=2, max=64)}, {0: Dim.DYNAMIC, 1: Dim("rows", max=99)})


class Samples(torch.nn.Module):
    def __init__(self, mode="bilinear"):
        super().__init__()
        self.mode = mode

    def forward(self, x, grid):
        return F.grid_sample(x, grid, self.mode, align_corners=False)


def shape_of(program):
    (node,) = (node for node in program.graph.nodes if "grid_sampler" in str(node.target))
    value = node.meta["val"]
    return str(value.shape), str(value.stride()), value.dtype, program.range_constraints.values()


def exported(mode, x, grid):
    return export(Samples(mode).eval(), (x, grid), {}, SIZES)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_shapes_are_those_of_the_decomposition(mode, monkeypatch):
    x, grid = torch.randn(2, 3, 5, 7).half(), torch.rand(2, 4, 6, 2).half()
    expected = shape_of(exported(mode, x, grid))
    monkeypatch.setattr(decompositions, "_grid_sampler_2d", None)
    with sampling_by_shapes():
        *shape, ranges = shape_of(exported(mode, x.contiguous(memory_format=torch.channels_last), grid))
    assert (*shape, list(ranges)) == (*expected[:3], list(expected[3]))


@pytest.mark.parametrize("grid", [(3, 4, 6, 2), (2, 4, 6, 3)], ids=str)
def test_what_does_not_fit_is_refused(grid):
    with sampling_by_shapes(), pytest.raises(RuntimeError, match="grid"):
        exported("bilinear", torch.randn(2, 3, 5, 7), torch.rand(grid))


def test_a_rule_of_torch_itself_is_there_afterwards():
    before = fake_tensor.get_fast_op_impls()
    with sampling_by_shapes():
        assert fake_tensor.get_fast_op_impls().keys() - before.keys() == {torch.ops.aten.grid_sampler_2d.default}
    assert fake_tensor.get_fast_op_impls() is before
