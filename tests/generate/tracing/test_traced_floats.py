"""Floats made of extents: arguments of kernels that are computed when the plugin runs."""

import pytest
import torch
import triton
import triton.language as tl
from torch import nn
from torch.export import Dim
from torch.library import triton_op, wrap_triton
from traced import instance_of, launches

import bridge
from bridge.doors.generation import with_functional_launches
from bridge.errors import ExportError
from bridge.generate.tracing.raw_launches import call_of_launch, is_launch
from bridge.generate.tracing.regions import cover
from bridge.generate.tracing.symbols import evaluate

SHAPE = torch.float32, ((1, 8, 4), (1, 4096, 20))


@triton.jit
def _scaled(x, y, n, scale, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) * scale, mask=i < n)


def scaled(x, scale):
    y = torch.empty_like(x)
    wrap_triton(_scaled)[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), scale, BLOCK=64)
    return y


SCALES = {
    "a power": lambda rows, width: width**-0.5,
    "a quotient": lambda rows, width: rows / width,
    "one over a root": lambda rows, width: 1.0 / (rows * width) ** 0.5,
    "a sum": lambda rows, width: 0.25 * width - rows / (width + 1),
}


def argument(instance):
    (launch,) = launches(instance)
    return next(each for each in launch.arguments if each.name == "scale")


@pytest.mark.parametrize("name", SCALES)
def test_one_region_computes_the_float_for_all_extents(name):
    scale_of = SCALES[name]
    instance = instance_of(lambda x: scaled(x, scale_of(*x.shape)), SHAPE)
    (region,) = instance.regions
    assert region.conditions == ()
    rows, width = (each.symbol for each in instance.symbols)
    assert argument(instance).type == "fp32"
    for extents in ((4, 20), (1, 1), (8, 4096), (7, 33)):
        value = evaluate(argument(instance).value, dict(zip((rows, width), extents, strict=True)))
        assert value == pytest.approx(scale_of(*extents), rel=1e-15)


def test_a_branch_on_a_float_makes_regions():
    instance = instance_of(lambda x: scaled(x, 2.0 if x.shape[1] / x.shape[0] > 1.5 else 0.5), SHAPE)
    assert sorted(each.arguments[3].value for each in launches(instance)) == [0.5, 2.0]


class Launch(nn.Module):
    def forward(self, x):
        return scaled(x, x.shape[0] / x.shape[1])


def test_a_launch_in_a_model_has_such_a_float():
    sizes = ({0: Dim("rows", min=1, max=8), 1: Dim("width", min=1, max=512)},)
    program = with_functional_launches(torch.export.export(Launch(), (torch.ones(4, 20),), dynamic_shapes=sizes))
    (node,) = filter(is_launch, program.graph.nodes)
    instance = cover(call_of_launch(node)[0])
    extents = {each.symbol: (3, 7)[each.axis] for each in instance.symbols}
    assert evaluate(argument(instance).value, extents) == 3 / 7


@triton_op("tracing_test::scaled_by", mutates_args=())
def scaled_by(x: torch.Tensor, scale: float) -> torch.Tensor:
    return scaled(x, scale)


class Given(nn.Module):
    def forward(self, x):
        return scaled_by(x, x.shape[1] ** -0.5)


def test_a_float_that_torch_export_fixes_is_an_error_that_says_so():
    sizes = ({1: Dim("width", min=1, max=512)},)
    with pytest.raises(ExportError, match="fixes a number that an operator takes as a float: let the operator compute"):
        bridge.compile(Given().eval(), (torch.ones(4, 20),), dynamic_shapes=sizes, target="sm86")
