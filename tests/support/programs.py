"""Small random programs of typical tensor code: in-place writes, views, aliases, branches on extents, several results.

Each is a module; a seed always gives the same one.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

import bridge


class Function(nn.Module):
    """A model that is a function of its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


STEPS = {}
"""Steps by name: each takes the module, its tensors so far and three random numbers; it appends or writes tensors."""


def step(function):
    STEPS[function.__name__] = function
    return function


class Program(nn.Module):
    """Steps on x [B, 6, 8], where B may be dynamic; returns the last one to three tensors.

    steps: the names of its steps; by default `length` random ones.
    """

    def __init__(self, seed, steps=(), length=8):
        super().__init__()
        torch.manual_seed(seed)
        choose = random.Random(seed)
        names = list(steps) or [choose.choice(list(STEPS)) for _ in range(length)]
        self.plan = [(name, STEPS[name], *(choose.randrange(1000) for _ in range(3))) for name in names]
        self.results = choose.randint(1, 3)
        self.linear = nn.Linear(8, 8)
        self.register_buffer("scratch", torch.zeros(6, 8))
        self.register_buffer("table", torch.randn(6, 8))
        self.register_buffer("order", torch.stack([torch.randperm(8) for _ in range(6)]))

    def forward(self, x):
        tensors = [x, self.linear(x)]
        for _, run, a, b, c in self.plan:
            run(self, tensors, a, b, c)
        return tuple(tensors[-self.results :]) if len(tensors) > self.results else (tensors[-1],)


def any_of(tensors, number):
    return tensors[number % len(tensors)]


def writable(tensors, number):
    """A tensor that may be written to: any but the input."""
    return tensors[1 + number % (len(tensors) - 1)]


def indices(tensors, *values):
    """Indices on the device of the tensors."""
    return torch.tensor(values, device=tensors[0].device)


@step
def linear(module, tensors, a, b, c):
    tensors.append(module.linear(any_of(tensors, a)))


@step
def op(module, tensors, a, b, c):
    tensors.append(bridge.relu(any_of(tensors, a), 0.1, 4.0))


@step
def added(module, tensors, a, b, c):
    tensors.append(any_of(tensors, a) + any_of(tensors, b) * 0.5)


@step
def scaled_in_place(module, tensors, a, b, c):
    writable(tensors, a).mul_([0.5, -1.5][b % 2])


@step
def added_in_place(module, tensors, a, b, c):
    target = writable(tensors, a)
    target += any_of(tensors, b).clone()


@step
def function_in_place(module, tensors, a, b, c):
    (torch.relu_, torch.tanh_, torch.sigmoid_, F.relu_)[b % 4](writable(tensors, a))


@step
def inplace_argument(module, tensors, a, b, c):
    tensors.append(F.leaky_relu(writable(tensors, a), 0.2, inplace=True))


@step
def part_in_place(module, tensors, a, b, c):
    start = b % 10 - 6
    end = start + 2
    writable(tensors, a)[:, start : end if end else None].mul_(0.5)


@step
def column_in_place(module, tensors, a, b, c):
    writable(tensors, a)[..., b % 16 - 8].add_(1.0)


@step
def number_assigned(module, tensors, a, b, c):
    writable(tensors, a)[:, b % 6] = 2.0


@step
def row_assigned(module, tensors, a, b, c):
    writable(tensors, a)[:, b % 6] = module.table[1]


@step
def steps_assigned(module, tensors, a, b, c):
    writable(tensors, a)[:, :, :: 2 + b % 2] = 0.25


@step
def view_in_place(module, tensors, a, b, c):
    writable(tensors, a).transpose(1, 2)[:, 1:3].sub_(0.5)


@step
def flat_in_place(module, tensors, a, b, c):
    target = writable(tensors, a)
    target.view(target.shape[0], -1)[:, 5:9].fill_(0.5)


@step
def aliased(module, tensors, a, b, c):
    tensors.append(writable(tensors, a).view(-1, 6, 8))  # a later write to either changes both


@step
def chunks_in_place(module, tensors, a, b, c):
    first, second = writable(tensors, a).chunk(2, dim=-1)
    first.add_(second)


@step
def unbound_in_place(module, tensors, a, b, c):
    for index, row in enumerate(writable(tensors, a).unbind(1)):
        if index % 2:
            row.neg_()


@step
def masked_filled(module, tensors, a, b, c):
    target = writable(tensors, a)
    target.masked_fill_(target > 0.5, [0.0, -2.0][b % 2])


@step
def masked_assigned(module, tensors, a, b, c):
    target = writable(tensors, a)
    target[target < -0.5] = 1.5


@step
def index_added(module, tensors, a, b, c):
    writable(tensors, a).index_add_(1, indices(tensors, 1, 4, 1), any_of(tensors, b)[:, :3].clone())


@step
def index_copied(module, tensors, a, b, c):
    writable(tensors, a).index_copy_(1, indices(tensors, 5, 0), any_of(tensors, b)[:, 2:4].clone())


@step
def index_filled(module, tensors, a, b, c):
    writable(tensors, a).index_fill_(2, indices(tensors, 0, 7), 3.0)


@step
def scattered(module, tensors, a, b, c):
    target = writable(tensors, a)
    target.scatter_(2, module.order.expand(target.shape[0], 6, 8), any_of(tensors, b).clone())


@step
def scatter_added(module, tensors, a, b, c):
    target = writable(tensors, a)
    index = (module.table > 0).long().expand(target.shape[0], 6, 8)
    target.scatter_add_(2, index, any_of(tensors, b).clone())


@step
def put_by_index(module, tensors, a, b, c):
    writable(tensors, a)[:, indices(tensors, 0, 3)] = any_of(tensors, b)[:, 1:3].clone()


@step
def out_argument(module, tensors, a, b, c):
    result = torch.empty_like(tensors[0])
    torch.add(any_of(tensors, a), any_of(tensors, b), out=result)
    tensors.append(result)


@step
def out_of_own(module, tensors, a, b, c):
    torch.mul(any_of(tensors, b).clone(), 0.5, out=writable(tensors, a))


@step
def buffer_overwritten(module, tensors, a, b, c):
    module.scratch.copy_(module.table * [0.5, 2.0][b % 2])
    tensors.append(any_of(tensors, a) + module.scratch)


@step
def new_and_filled(module, tensors, a, b, c):
    result = torch.zeros_like(tensors[0])
    result[:, 1:4] = any_of(tensors, a)[:, 2:5]
    tensors.append(result)


@step
def by_extent(module, tensors, a, b, c):
    x = any_of(tensors, a)
    tensors.append(x * 2.0 if x.shape[1] * x.shape[2] > 40 else x - 1.0)


@step
def by_batch(module, tensors, a, b, c):
    x = any_of(tensors, a)
    tensors.append(x / x.shape[0] + x.shape[0] // 2)


@step
def looped(module, tensors, a, b, c):
    total, x = torch.zeros_like(tensors[0]), any_of(tensors, a)
    for row in range(6):
        total[:, row] += x[:, row] * row
    tensors.append(total)


@step
def rolled(module, tensors, a, b, c):
    tensors.append(torch.roll(any_of(tensors, a), b % 7 - 3, dims=1 + c % 2))


@step
def standardised(module, tensors, a, b, c):
    target = writable(tensors, a)
    target.sub_(target.mean(-1, keepdim=True)).div_(target.std(-1, keepdim=True) + 1.0)


@step
def clamped(module, tensors, a, b, c):
    writable(tensors, a).clamp_(-2.0, 2.0)


@step
def copied(module, tensors, a, b, c):
    writable(tensors, a).copy_(any_of(tensors, b).clone())


@step
def zeroed(module, tensors, a, b, c):
    writable(tensors, a)[:, :1].zero_()


@step
def addcmul_in_place(module, tensors, a, b, c):
    writable(tensors, a).addcmul_(any_of(tensors, b).clone(), module.table, value=0.5)


@step
def lerp_in_place(module, tensors, a, b, c):
    writable(tensors, a).lerp_(any_of(tensors, b).clone(), 0.25)


@step
def experts(module, tensors, a, b, c):
    """A mixture of experts in plain operators: each adds its share to the elements that chose it."""
    x = any_of(tensors, a)
    chosen = module.linear(x).argmax(-1)
    total = torch.zeros_like(x)
    for expert in range(3):
        total.add_(torch.where((chosen % 3 == expert)[..., None], x * (expert + 1), 0.0))
    tensors.append(total)
