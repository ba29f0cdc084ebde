"""Writes to places that indices name, some of them twice: sums, products, means and extremes, and plain values."""

import math
from importlib.util import find_spec

import oracle
import pytest
import torch

import bridge
from bridge.errors import UnsupportedOpError
from bridge.tensorrt.decompositions import counting, scattering, segments

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")

REDUCTIONS = ["sum", "prod", "mean", "amax", "amin"]
DTYPES = [torch.float32, torch.int64, torch.bfloat16]
ROWS, COUNT = torch.export.Dim("rows", min=2, max=40), torch.export.Dim("count", min=2, max=40)


def numbers(*shape, dtype=torch.float32):
    return torch.randint(-3, 4, shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scatter_reduce(reduce, include_self, dtype):
    for shape, dim, part in (((4, 5), 0, (9, 5)), ((4, 5), -1, (3, 8)), ((2, 3, 4), 1, (2, 7, 2)), ((6,), 0, (11,))):
        x, index = numbers(*shape, dtype=dtype), torch.randint(shape[dim], part)
        src = numbers(*[extent + 1 for extent in part], dtype=dtype)  # larger than the index
        found = scattering.scatter_reduce(x, dim, index, src, reduce, include_self=include_self)
        expected = x.scatter_reduce(dim, index, src, reduce, include_self=include_self)
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", REDUCTIONS[1:])
def test_slices_reduced(reduce, dtype):
    for shape, dim in (((4, 5), 0), ((2, 3, 4), -2), ((6,), 0)):
        x, index = numbers(*shape, dtype=dtype), torch.randint(shape[dim], (7,))
        src = numbers(*shape, dtype=dtype).index_select(dim, torch.randint(shape[dim], (7,)))
        for include_self in (True, False):
            found = scattering.index_reduce(x, dim, index, src, reduce, include_self=include_self)
            expected = x.index_reduce(dim, index, src, reduce, include_self=include_self)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fused", [2**24, 0], ids=["compared", "product"])
def test_sums_of_slices_that_are_not_finite_stay_in_their_places(fused, monkeypatch):
    monkeypatch.setattr(scattering, "_FUSED", fused)
    x, index, src = torch.randn(5, 4), torch.tensor([1, 1, 3, 1, 4]), torch.randn(5, 4)
    src[0, 0] = src[0, 1] = torch.inf
    src[1, 1] = src[2, 2] = -torch.inf
    src[4, 3] = torch.nan
    for alpha in (1, 2):
        found = scattering.index_add(x, 0, index, src, alpha=alpha)
        torch.testing.assert_close(found, x.index_add(0, index, src, alpha=alpha), equal_nan=True)
    assert torch.isnan(found[1, 1]) and torch.isnan(found[4, 3]) and found.isfinite().sum() == 16


def test_tensors_without_dimensions():
    x, index, src = torch.tensor(2.0), torch.tensor(0), torch.tensor(3.0)
    assert scattering.scatter_add(x, 0, index, src) == 5
    assert torch.equal(
        scattering.index_add(torch.ones(3), 0, torch.tensor(1), torch.tensor(3.0)), torch.tensor([1, 4, 1.0])
    )


INDICES = [
    ([torch.tensor([1, 1, -1])], (3, 5, 6)),
    ([None, torch.tensor([1, 1, -1])], (4, 3, 6)),
    ([torch.tensor([[1, 1], [2, -1]]), torch.tensor([0, 0])], (2, 2, 6)),
    ([torch.tensor([1, 1]), None, torch.tensor([[2], [2]])], (2, 2, 5)),
    ([torch.tensor(2)], (1,)),
    ([None, None, torch.tensor([1, 1])], ()),
    ([torch.tensor([1, 1, 0])] * 3, (3,)),
]


@pytest.mark.parametrize(("indices", "shape"), INDICES)
def test_values_put_and_added(indices, shape):
    x, values = torch.randn(4, 5, 6), torch.randn(shape)
    expected = torch.ops.aten.index_put(x, indices, values, True)
    torch.testing.assert_close(scattering.index_put(x, indices, values, True), expected)
    same = torch.full(shape, 3.0)  # which of different values for one place remains is not defined
    assert torch.equal(scattering.index_put(x, indices, same), torch.ops.aten.index_put(x, indices, same))


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((4,), 0), ((4, 5), 0), ((4, 5, 6), 0), ((5,), 1), ((5, 6), 1), ((6,), 2)])
def test_values_put_by_a_mask(shape, axis, accumulate):
    x, mask = torch.randn(4, 5, 6), torch.rand(shape) > 0.5
    mask.view(-1)[0] = True
    indices = [None] * axis + [mask]
    part = x[tuple(slice(None) if index is None else index for index in indices)].shape
    for values in (torch.tensor(2.0), torch.randn(1), torch.randn(part), torch.randn(part[axis + 1 :])):
        found = scattering.index_put(x, indices, values, accumulate)
        torch.testing.assert_close(found, torch.ops.aten.index_put(x, indices, values, accumulate))


@pytest.mark.parametrize(("bins", "low", "high"), [(8, 0, 7), (5, -1, 1), (7, 0, 0), (3, 2, 100)])
def test_counts_in_intervals(bins, low, high):
    for x in (torch.randint(-1, 9, (4, 10)).float(), torch.randn(50), torch.ones(3)):
        assert torch.equal(counting.histc(x, bins, low, high), torch.histc(x, bins, low, high))


@pytest.mark.parametrize("right", [False, True])
def test_places_among_boundaries(right):
    x, row = torch.randn(4, 3), torch.tensor([-1.0, 0.0, 0.5])
    x[0] = row
    assert torch.equal(counting.bucketize(x, row, right=right), torch.bucketize(x, row, right=right))
    rows = torch.randn(4, 6).sort(1)[0]
    found = counting.searchsorted(rows, x, out_int32=True, side="right" if right else "left")
    assert torch.equal(found, torch.searchsorted(rows, x, out_int32=True, right=right))


@pytest.mark.parametrize("include_last_offset", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_some_of_them_empty(mode, padding_idx, include_last_offset):
    weight, indices, offsets = torch.randn(5, 4), torch.tensor([1, 2, 2, 0, 4, 2]), torch.tensor([0, 1, 1, 3, 6])
    weights = torch.randn(6) if mode == "sum" else None
    expected = torch.nn.functional.embedding_bag(
        indices, weight, offsets, None, 2.0, False, mode, False, weights, include_last_offset, padding_idx
    )
    number = ["sum", "mean", "max"].index(mode)
    padding = -1 if padding_idx is None else padding_idx
    found = segments.embedding_bag(
        weight, indices, offsets, False, number, False, weights, include_last_offset, padding
    )[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("shape", "dim", "index"), [((4, 3), -1, (2, 0)), ((4, 3, 2), 0, (1,)), ((), 0, (0,))])
def test_slices_copied(shape, dim, index):
    x, index = torch.randn(shape), torch.tensor(index)
    source = torch.randn([len(index) if axis == dim % len(shape) else n for axis, n in enumerate(shape)])
    for position in (index, index[0]) if len(index) == 1 else (index,):
        expected = x.index_copy(dim, position, source)
        assert torch.equal(scattering.index_copy(x, dim, position, source), expected)


class Scatters(torch.nn.Module):
    """x [rows, 6], index [count], src [count, 6]; indices are equal in every call."""

    def forward(self, x, index, src):
        y = x.clone()
        y[y > 0.5] = 0.0
        z = torch.zeros_like(x)
        z.index_put_((index, index % 6), src[:, 0], accumulate=True)
        spread = index.unsqueeze(1).expand(-1, 6)
        return (
            x.index_add(0, index, src),
            x.scatter_add(0, spread, src),
            x.scatter_reduce(1, torch.zeros_like(x, dtype=torch.int64), x, "mean", include_self=False),
            x.scatter_reduce(0, spread, src, "amax"),
            x.scatter(1, torch.full_like(x[:, :1], 3, dtype=torch.int64), 2.0),
            x.index_copy(1, torch.tensor([4, 0], device=x.device), x[:, :2]),
            torch.histc(index.float(), 4, 0, 3),
            torch.bucketize(x, src[0].sort()[0]),
            torch.nn.functional.embedding_bag(index.unsqueeze(1), x, mode="mean"),
            y,
            z,
        )


@pytest.mark.parametrize("dynamic_shapes", [None, ({0: ROWS}, {0: COUNT}, {0: COUNT})], ids=["fixed", "dynamic"])
def test_scatters_in_a_network(dynamic_shapes):
    model = Scatters().eval()
    with oracle.interpreted():
        compiled = oracle.ahead(model, _inputs(5, 7), dynamic_shapes)
        for rows, count in [(5, 7)] if dynamic_shapes is None else [(5, 7), (2, 40), (40, 3)]:
            inputs = _inputs(rows, count)
            oracle.assert_same(compiled(*inputs), model(*inputs))


def _inputs(rows, count, device="cpu"):
    index = torch.randint(rows, (count,), device=device)
    index[0] = index[1]
    return torch.randn(rows, 6, device=device), index, torch.randn(count, 6, device=device)


def test_an_engine_of_every_scatter():
    shapes = {0: ROWS}, {0: COUNT}, {0: COUNT}
    compiled = bridge.compile(Scatters().eval(), _inputs(5, 7), dynamic_shapes=shapes, target="sm86")
    assert compiled.outputs[0].shape == (-1, 6)


def test_more_comparisons_than_memory_is_for_are_refused():
    class Model(torch.nn.Module):
        def forward(self, x, index, src):
            return x.index_add(0, index, src)

    rows = torch.export.Dim("rows", min=2, max=2**20)
    inputs = torch.randn(5, 6), torch.tensor([0] * 900), torch.randn(900, 6)
    with pytest.raises(
        UnsupportedOpError, match=r"index_add.*268,435,456 times(.|\n)*test_scattering.py:\d+ in forward"
    ):
        bridge.compile(Model().eval(), inputs, dynamic_shapes=({0: rows}, None, None), target="sm86")
    assert math.prod((2**20, 900)) > scattering.MAX_COMPARISONS


def test_counts_without_a_bound_name_the_way_out():
    class Model(torch.nn.Module):
        def forward(self, index):
            return torch.bincount(index).sum()

    with pytest.raises(UnsupportedOpError, match=r"bincount.*depends on values\. torch\.histc"):
        bridge.compile(Model().eval(), (torch.randint(4, (5,)),), target="sm86")


@pytest.mark.gpu(engines=True)
def test_scatters_on_a_gpu(device):
    model, shapes = Scatters().eval(), ({0: ROWS}, {0: COUNT}, {0: COUNT})
    compiled = bridge.compile(model, _inputs(5, 7, device), dynamic_shapes=shapes)
    for rows, count in ((5, 7), (2, 40), (40, 3)):
        inputs = _inputs(rows, count, device)
        oracle.assert_same(compiled(*inputs), model(*inputs))


@pytest.mark.parametrize("initial", [None, 0.5])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "prod"])
def test_sets_one_after_the_other(reduce, initial):
    """Some without elements; elements behind the last set, and sets of each row of a table."""
    x = torch.randn(9, 3)
    x[4, 0] = math.nan
    for lengths in ([2, 0, 4, 3], [0, 9, 0], [1, 2]):
        given = {"lengths": torch.tensor(lengths), "initial": initial, "unsafe": True}
        torch.testing.assert_close(
            segments.segment_reduce(x, reduce, **given), torch.segment_reduce(x, reduce, **given), equal_nan=True
        )
    table, lengths = torch.randn(2, 5, 3), torch.tensor([[2, 3], [0, 5]])
    offsets = torch.nn.functional.pad(lengths.cumsum(1), (1, 0))
    for given in ({"lengths": lengths}, {"offsets": offsets}):
        expected = torch.segment_reduce(table, reduce, axis=1, initial=initial, **given)
        found = segments.segment_reduce(table, reduce, axis=1, initial=initial, **given)
        torch.testing.assert_close(found, expected, equal_nan=True)


def test_a_mean_of_sets_in_16_bits_is_rounded_once():
    x = torch.full((300, 1), 300.0, dtype=torch.float16)
    assert segments.segment_reduce(x, "mean", lengths=torch.tensor([300])).tolist() == [[300]]


def test_too_many_sets_are_refused():
    class Net(torch.nn.Module):
        def forward(self, x, lengths):
            return torch.segment_reduce(x, "max", lengths=lengths, unsafe=True)

    with pytest.raises(UnsupportedOpError, match="here more than 268,435,456 times"):
        bridge.compile(Net().eval(), (torch.randn(20000, 4), torch.full((5000,), 4)), target="sm86")
