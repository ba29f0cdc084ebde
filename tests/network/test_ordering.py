"""Sorting, the largest and the smallest elements and their places, and medians."""

from importlib.util import find_spec
from unittest import mock

import oracle
import pytest
import torch

import bridge
from bridge.errors import UnsupportedOpError
from bridge.tensorrt.decompositions import ordering
from bridge.tensorrt.install.flavour import detect

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")

DTYPES = [torch.float32, torch.int64, torch.bfloat16, torch.bool]
ROWS = {0: torch.export.Dim("rows", min=4, max=40)}


def few(*shape, dtype=torch.float32):
    """Numbers of which many are equal."""
    return torch.randint(0, 4, shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("descending", [False, True])
def test_stable_sort(descending, dtype):
    for shape, dim in (((7,), 0), ((5, 6), 0), ((2, 3, 4), -2), ((), 0), ((0, 3), 0)):
        x = few(*shape, dtype=dtype)
        found = ordering.stable_sort(x, stable=True, dim=dim, descending=descending)
        assert all(map(torch.equal, found, torch.sort(x, dim=dim, descending=descending, stable=True)))


@pytest.mark.parametrize("descending", [False, True])
def test_nan_counts_as_greatest(descending):
    x = torch.tensor([[1, torch.nan, 0, torch.inf, torch.nan], [0, 0, 1, -torch.inf, 2]])
    values, indices = ordering.stable_sort(x, stable=True, descending=descending)
    expected = torch.sort(x, descending=descending, stable=True)
    torch.testing.assert_close(values, expected.values, equal_nan=True)
    assert torch.equal(indices, expected.indices)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_order_statistics(dtype):
    for shape, dim in (((7,), 0), ((5, 6), 0), ((5, 6), -1)):
        x = torch.randperm(torch.Size(shape).numel()).reshape(shape).to(dtype)
        for keepdim in (False, True):
            for ours, theirs in ((ordering.median_dim, torch.median), (ordering.nanmedian_dim, torch.nanmedian)):
                assert all(map(torch.equal, ours(x, dim, keepdim), theirs(x, dim, keepdim)))
            assert all(map(torch.equal, ordering.kthvalue(x, 3, dim, keepdim), torch.kthvalue(x, 3, dim, keepdim)))
        assert torch.equal(ordering.median(x), x.median()) and torch.equal(ordering.nanmedian(x), x.nanmedian())


def test_medians_beside_nan():
    x = torch.tensor([[1, torch.nan, 0, 3, 2], [torch.nan] * 5, [4, 2, 0, 1, 3]])
    for ours, theirs in ((ordering.median_dim, torch.median), (ordering.nanmedian_dim, torch.nanmedian)):
        torch.testing.assert_close(ours(x, 1)[0], theirs(x, 1)[0], equal_nan=True)
    torch.testing.assert_close(ordering.median(x), x.median(), equal_nan=True)
    assert ordering.nanmedian(x) == x.nanmedian()


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_and_the_first_place_of_each(dtype):
    for shape, dim in (((7,), 0), ((5, 6), 0), ((2, 3, 4), -2), ((), 0)):
        x = few(*shape, dtype=dtype)
        for keepdim in (False, True):
            assert all(map(torch.equal, ordering.max_dim(x, dim, keepdim), torch.max(x, dim, keepdim)))
            assert all(map(torch.equal, ordering.min_dim(x, dim, keepdim), torch.min(x, dim, keepdim)))
            for place in (dim, None) if dtype != torch.bool else ():
                assert torch.equal(ordering.argmax(x, place, keepdim), x.argmax(place, keepdim))
                assert torch.equal(ordering.argmin(x, place, keepdim), x.argmin(place, keepdim))


class Orders(torch.nn.Module):
    """x [rows, 7] of distinct numbers, n [rows, 7] of large integers that differ by little."""

    def forward(self, x, n):
        column, row = x[:, 0], x[0]
        boxes, labels = x.max(1)
        return (
            *torch.sort(x, 1, descending=True),
            *torch.sort(x, dim=0, stable=True),
            *torch.sort(n, dim=-1, stable=True, descending=True),
            column.argsort(),
            *row.topk(3),
            row.softmax(0),
            *column.topk(min(3, column.shape[0] - 1), largest=False),
            boxes,
            labels,
            *n.min(0),
            *n.aminmax(dim=1),
            n.argmax(),
            (n > 2**30 + 1).int().argmax(1),
            n.int().amax(1),
            *x.median(0),
            *x.kthvalue(2, 1),
        )


def _inputs(rows, device="cpu"):
    x = torch.randperm(rows * 7, device=device).reshape(rows, 7).float()
    return x, torch.randint(4, (rows, 7), device=device) + 2**30


@pytest.mark.parametrize("dynamic_shapes", [None, (ROWS, ROWS)], ids=["fixed", "dynamic"])
def test_orders_in_a_network(dynamic_shapes):
    model = Orders().eval()
    with oracle.interpreted():
        compiled = oracle.ahead(model, _inputs(6), dynamic_shapes)
        for rows in [6] if dynamic_shapes is None else [6, 4, 40]:
            inputs = _inputs(rows)
            oracle.assert_same(compiled(*inputs), model(*inputs))


def test_an_engine_of_every_order():
    compiled = bridge.compile(Orders().eval(), _inputs(6), dynamic_shapes=(ROWS, ROWS), target="sm86")
    assert compiled.outputs[1].dtype == "int64" and "TOPK" in [layer["type"] for layer in compiled.layers]


class BestOfMany(torch.nn.Module):
    def forward(self, x):
        return tuple(x.topk(300, 1))


def test_few_of_many_elements_are_a_layers():
    """Comparisons of each with each would be 1.2e9."""
    compiled = bridge.compile(BestOfMany().eval(), (torch.randn(8, 12000),), target="sm86")
    assert "TOPK" in [layer["type"] for layer in compiled.layers]


@pytest.mark.gpu(engines=True)
def test_few_of_many_elements_on_a_gpu(device):
    x = torch.randperm(8 * 12000, device=device).reshape(8, 12000).float()
    oracle.assert_same(bridge.compile(BestOfMany().eval(), (x,))(x), BestOfMany()(x))


def test_more_elements_than_can_be_ordered_are_named():
    class Model(torch.nn.Module):
        def forward(self, x):
            return x.topk(4000)[0], x.sort()[1]

    with pytest.raises(UnsupportedOpError) as raised:
        bridge.compile(Model().eval(), (torch.randn(20, 50000),), target="sm86")
    for part in (
        "aten.topk.default",
        "aten.sort.default",
        "50,000 elements in up to 20 rows",
        "at most 3840",
        "in forward",
    ):
        assert part in str(raised.value)


def test_a_converters_check_that_fails_is_an_error_with_the_operator_and_line():
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    class Model(torch.nn.Module):
        def forward(self, x):
            return x * 2

    def fail(node, value=None):
        return node.args[9]

    with mock.patch.object(DYNAMO_CONVERTERS, "get", fail), pytest.raises(UnsupportedOpError) as raised:
        bridge.compile(Model().eval(), (torch.randn(3),), target="sm86")
    for part in ("aten.mul.Tensor", "IndexError: tuple index out of range", "x * 2", detect().version):
        assert part in str(raised.value)


@pytest.mark.gpu(engines=True)
def test_orders_on_a_gpu(device):
    model = Orders().eval()
    compiled = bridge.compile(model, _inputs(6, device), dynamic_shapes=(ROWS, ROWS))
    for rows in (6, 4, 40):
        inputs = _inputs(rows, device)
        oracle.assert_same(compiled(*inputs), model(*inputs))
