"""Values that are followed while a model is captured, where the model writes to them, in whichever way."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from bridge.errors import ExportError
from bridge.graph.capture import export


class Model(nn.Module):
    """A model of a function of itself and of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("strides", torch.tensor([2, 3, 4]))
        self.sizes = torch.tensor([1, 2, 3])

    def forward(self, x):
        return self.function(self, x)


def ones(n=3):
    return torch.ones(n, dtype=torch.int64)


def read(x, *tensors):
    return x * sum(int(tensor.sum()) for tensor in tensors)


def to_items(_, x):
    a = torch.zeros(5, dtype=torch.int64)
    a[1:3] = 2
    a[torch.tensor([0])] = 5
    return read(x, a)


def to_indices(_, x):
    a = torch.zeros(4, dtype=torch.int64)
    a.scatter_(0, torch.tensor([1, 1]), torch.tensor([4, 4]))
    a.index_put_((torch.tensor([2]),), torch.tensor(9))
    return read(x, a)


def to_pieces(_, x):
    a = torch.arange(6)
    first, second = a.split(3)
    first.add_(second)
    return read(x, a)


def to_out(_, x):
    values, places = ones(0), ones(0)
    torch.max(torch.tensor([[3, 9, 2]]), 1, out=(values, places))
    return read(x, values.reshape(1), places.reshape(1))


def extents(_, x):
    """Nothing is known here that could be read: it is traced as it is."""
    a = torch.zeros(5, dtype=torch.int64)
    a[1:][0] = x.shape[0]
    return x * a.sum()


def filled_by_an_input(_, x):
    return x * torch.full((2,), x.sum()).sum() + torch.tensor([x.sum().item(), 1.0]).sum()


def to_a_diagonal(_, x):
    a = torch.zeros(3, 3, dtype=torch.int64)
    a.diagonal().fill_(2)
    return read(x, a)


def to_a_transposed_row(_, x):
    a = torch.zeros(2, 3, dtype=torch.int64)
    a.T[0].add_(2)
    return read(x, a)


def in_an_activation(_, x):
    a = torch.tensor([-1, 2, -3])
    functional.relu(a, inplace=True)
    functional.hardtanh(a, 1, 2, inplace=True)
    return read(x, a)


def to_what_an_attribute_shows(model, x):
    model.sizes.view_as(model.sizes).add_(1)
    return read(x, model.sizes)


def to_what_a_buffer_shows(model, x):
    model.strides.view_as(model.strides).add_(1)
    return read(x, model.strides)


def to_strides(_, x):
    a, b = torch.arange(6), torch.arange(6)
    a.unfold(0, 2, 2).fill_(1)
    b.as_strided((2,), (1,)).fill_(7)
    return read(x, a, b)


def to_other_memory(_, x):
    a, b = torch.arange(6), torch.arange(6)
    a.data = ones(6)
    b.set_(ones(6))
    return read(x, a, b)


def to_memory_that_others_write(_, x):
    a, b = torch.arange(6), ones(6)
    a.set_(b)
    b.add_(1)
    return read(x, a)


def past_autograd(_, x):
    a = torch.arange(6)
    a.data.add_(1)
    return read(x, a)


def to_an_alias(_, x):
    a = torch.arange(6)
    torch.ops.aten.alias.default(a).fill_(3)
    torch.ops.aten.mul_(a, 2)
    return read(x, a)


def to_several(_, x):
    a = torch.arange(6)
    torch._foreach_add_([a], 2)
    return read(x, a)


def to_what_is_held_as_a_result(model, x):
    torch.arange(3, out=model.strides)
    torch.nonzero(model.sizes, out=model.sizes.view(3, 1))
    return read(x, model.strides, model.sizes)


def at_random(_, x):
    return read(x, torch.zeros(30).bernoulli_(0.5).to(torch.int64))


FOLLOWED = [to_items, to_indices, to_pieces, to_out, extents, filled_by_an_input]
NOT_FOLLOWED = [
    to_a_diagonal,
    to_a_transposed_row,
    in_an_activation,
    to_what_an_attribute_shows,
    to_what_a_buffer_shows,
]
NOT_FOLLOWED += [
    to_strides,
    to_other_memory,
    to_memory_that_others_write,
    past_autograd,
    to_an_alias,
    to_several,
    at_random,
]


def captured(function, x):
    with torch.no_grad():
        return export(Model(function).eval(), (x,), {}, None).module(check_guards=False)(x)


@pytest.mark.parametrize("function", FOLLOWED)
def test_writes_are_followed(function):
    x = torch.arange(6.0).reshape(2, 3)
    torch.testing.assert_close(captured(function, x), Model(function)(x))


@pytest.mark.parametrize("function", NOT_FOLLOWED)
def test_what_is_written_unseen_is_not_known(function):
    """torch.export refuses to read it: a number from before the write would be wrong."""
    with pytest.raises(ExportError, match=r"data-dependent|fake tensor"):
        captured(function, torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("function", [to_what_a_buffer_shows, to_what_is_held_as_a_result])
def test_the_model_is_as_before(function):
    model, x = Model(function).eval(), torch.ones(2)
    with pytest.raises(ExportError), torch.no_grad():
        export(model, (x,), {}, None)
    assert model.strides.tolist() == [2, 3, 4] and model.sizes.tolist() == [1, 2, 3]
