"""What counts as a wrong result: more than rounding explains, in more places than it explains."""

import pytest
import torch

from bridge.engine.error_metric import deviation

HALF, FLOAT = torch.float16, torch.float32


def within(actual, exact, dtype=HALF, peer=None):
    """The deviation of a tensor from one in float64, and from what a dtype makes of that."""
    exact = torch.as_tensor(exact, dtype=torch.float64)
    peer = exact.to(dtype) if peer is None else peer
    return deviation(torch.as_tensor(actual, dtype=dtype), peer, exact, dtype)


def test_roundings_of_the_dtype_are_right():
    exact = torch.linspace(-1, 1, 333, dtype=torch.float64)
    for dtype in (HALF, torch.bfloat16, FLOAT):
        found = within(exact + 2 * torch.finfo(dtype).eps, exact, dtype)
        assert not found.is_wrong and 0 < found.error <= found.allowed


@pytest.mark.parametrize("dtype", [HALF, FLOAT])
def test_one_element_of_few_is_enough_to_be_wrong(dtype):
    exact = torch.linspace(-1, 1, 333)
    actual = exact.clone()
    actual[7] += 0.1
    found = within(actual, exact, dtype)
    assert found.is_wrong and found.wrong == 1 and found.error == pytest.approx(0.1, rel=0.02)


def test_what_pytorch_itself_rounds_away_is_allowed():
    exact = torch.linspace(-1, 1, 333)
    peer = (exact + 0.05).to(HALF)
    assert not within(exact - 0.1, exact, peer=peer).is_wrong
    assert within(exact - 0.3, exact, peer=peer).is_wrong


def test_a_result_may_be_as_pytorch_has_it_in_the_same_dtype():
    """An index that rounding decides: PyTorch's other choice is no less right."""
    exact, peer = torch.tensor([3, 5]), torch.tensor([3, 9])
    assert not deviation(peer, peer, exact, HALF).is_wrong
    assert deviation(torch.tensor([3, 7]), peer, exact, HALF).is_wrong


def test_one_in_a_thousand_may_fall_to_the_other_side_in_float16_and_none_without_rounding():
    exact = torch.arange(4096)
    actual = exact.clone()
    actual[:4] = 0
    found = deviation(actual, exact, exact, HALF)
    assert not found.is_wrong and found.error == 0 and found.wrong == 3
    assert deviation(actual, exact, exact, FLOAT).is_wrong
    assert deviation(actual, exact, exact, None).is_wrong


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_infinities_and_nan_are_where_they_should_be(value):
    exact = torch.tensor([1.0, value, 2.0])
    assert not within(exact, exact).is_wrong
    found = within([1.0, 0.5, 2.0], exact)
    assert found.is_wrong and found.error == float("inf")
    assert within([value, value, 2.0], exact).is_wrong


def test_numbers_that_the_dtype_does_not_have_are_not_compared():
    exact = torch.tensor([1.0, 1e6])
    assert not within([1.0, 7.0], exact).is_wrong  # infinity in float16
    assert within([3.0, 7.0], exact).is_wrong


def test_zeros_have_no_largest_value():
    assert not within([0.0, 0.0], [0.0, 0.0]).is_wrong
    assert within([0.0, 1e-3], [0.0, 0.0]).is_wrong


def test_without_a_wider_dtype_more_is_allowed():
    peer = torch.linspace(-1, 1, 33)
    ours = peer + 32e-6
    assert not deviation(ours, peer, peer, FLOAT).is_wrong
    assert deviation(ours, peer, peer.double(), FLOAT).is_wrong


def test_near_an_overflow_of_the_dtype_other_numbers_may_overflow_too():
    exact = torch.tensor([1.0, 65000.0, 70000.0])
    assert not within([1.0, float("inf"), float("inf")], exact).is_wrong
    assert within([float("inf"), 65000.0, float("inf")], torch.tensor([1.0, 65000.0, 2.0])).is_wrong
