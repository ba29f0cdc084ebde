"""Derivatives of every op in every mode, against finite differences and against each other."""

import pytest
import torch
from samples import DIFFERENTIABLE, PAIRS
from torch.autograd import forward_ad

import bridge
from bridge.testing import cast, outputs_of


def differentiable(name):
    """A function of one tensor, the op's first, that returns one tensor, and a value for it in float64."""
    args, _, kwargs = PAIRS[name]
    first, *rest = cast(args, torch.float64)
    return lambda x: outputs_of(getattr(bridge, name)(x, *rest, **kwargs))[0], first


def direction(x):
    return torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_is_the_directional_derivative(name):
    function, x = differentiable(name)
    step, along = 1e-6, direction(x)
    value, tangent = torch.func.jvp(function, (x,), (along,))
    torch.testing.assert_close(value, function(x))
    assert tangent.abs().max() > 0
    difference = (function(x + step * along) - function(x - step * along)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-5)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(function(forward_ad.make_dual(x, along)))
    torch.testing.assert_close(dual.tangent, tangent)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_reverse_mode_is_the_same_through_functions_and_graphs(name):
    function, x = differentiable(name)
    along = direction(x)
    weights = direction(function(x))
    by_function = torch.func.grad(lambda x: (function(x) * weights).sum())(x)
    leaf = x.clone().requires_grad_()
    (by_graph,) = torch.autograd.grad((function(leaf) * weights).sum(), leaf)
    torch.testing.assert_close(by_function, by_graph)
    _, tangent = torch.func.jvp(function, (x,), (along,))
    torch.testing.assert_close((by_function * along).sum(), (tangent * weights).sum())


def test_second_derivatives():
    def function(x):
        return (bridge.relu(x * x * x, 0.5) ** 2).sum()

    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    expected = torch.diag(30 * x**4 * torch.tensor([1.0, 0.25, 1.0], dtype=torch.float64))
    torch.testing.assert_close(torch.func.hessian(function)(x), expected)  # forward over reverse
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(function))(x), expected)
    assert torch.autograd.gradgradcheck(lambda x: bridge.relu(x, 0.5), x.clone().requires_grad_())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_vmap_is_one_call_after_the_other(name):
    function, x = differentiable(name)
    several = torch.stack([x, -x, 0.5 * x])
    expected = torch.stack([function(each) for each in several])
    torch.testing.assert_close(torch.func.vmap(function)(several), expected)
    along = direction(several)
    tangents = torch.func.vmap(lambda x, t: torch.func.jvp(function, (x,), (t,))[1])(several, along)
    expected = torch.stack([torch.func.jvp(function, (x,), (t,))[1] for x, t in zip(several, along, strict=True)])
    torch.testing.assert_close(tangents, expected)


def test_nms_has_no_tangent():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [9, 9, 12, 12]])
    scores = torch.tensor([1.0, 2, 3])
    kept, tangent = torch.func.jvp(lambda b: bridge.nms(b, scores, 0.5), (boxes,), (torch.ones_like(boxes),))
    assert kept.tolist() == [2, 1] and not tangent.any()
