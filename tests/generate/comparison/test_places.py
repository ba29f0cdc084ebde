"""The calls that a generated plugin is compared on."""

import torch
from torch import nn
from torch.export import Dim, export
from traced import call_of_body

from bridge.doors.comparison.places import elements, points, shape_at
from bridge.generate.tracing.calls import call_of
from bridge.generate.tracing.regions import cover

HALF = torch.float16
MOST = 1 << 40


def shapes(call, most=MOST, small=1 << 16):
    instance = cover(call)
    found = points(call, instance, most, small)
    assert [elements(instance, each) for each in found] == sorted(elements(instance, each) for each in found)
    return [shape_at(instance.inputs[0], each) for each in found]


def double(x):
    return x * 2


def test_the_least_the_tuned_the_greatest_and_odd_ones_between():
    found = shapes(call_of_body(double, (HALF, ((1, 64, 4), (16, 4000, 1024)))))
    assert found[0] == (1, 16) and found[-1] == (64, 4000)
    assert (4, 1024) in found
    odd = [shape for shape in found if all(extent % 2 for extent in shape)]
    assert len(odd) >= 2 and len({width for _, width in odd}) == len(odd)
    assert len(found) <= 10


def test_the_greatest_are_as_many_elements_as_fit():
    call = call_of_body(double, (HALF, ((1, 64, 4), (16, 1 << 20, 1024))))
    found = shapes(call, most=100_000, small=5000)
    counts = [2 * rows * width for rows, width in found]
    assert max(counts) <= 100_000 and max(counts) > 25_000
    assert any(2500 < count <= 5000 for count in counts)  # of the greatest, what the CPU can try


def test_a_call_without_dynamic_extents_is_one_point():
    assert shapes(call_of_body(double, (HALF, (3, 5)))) == [(3, 5)]


def test_a_call_that_is_too_large_at_its_least_is_none():
    assert shapes(call_of_body(double, (HALF, ((1000, 2000, 1000), 5000))), most=9_000_000) == []


def test_empty_tensors_are_left_out():
    def halves(x):
        return x[: x.shape[0] // 2] * 2

    found = shapes(call_of_body(halves, (HALF, ((0, 64, 8), 3))))
    assert found and min(rows for rows, _ in found) >= 2


def test_extents_of_a_model_that_depend_on_one_another_stay_so():
    class Pairs(nn.Module):
        def forward(self, x, y):
            return torch.nn.functional.pixel_unshuffle(x, 2) + y

    half = Dim("half", min=2, max=50)
    dynamic = ({2: 2 * half}, {2: half})
    program = export(Pairs(), (torch.randn(1, 3, 8, 6), torch.randn(1, 12, 4, 3)), dynamic_shapes=dynamic)
    (node,) = [each for each in program.graph.nodes if "pixel_unshuffle" in str(each.target)]
    call, _ = call_of(node, node.target)
    heights = [shape[2] for shape in shapes(call)]
    assert len(heights) > 3 and all(height % 2 == 0 for height in heights) and max(heights) == 100
