"""Values that are followed while a model is captured, in random programs of views, writes and results."""

import random

import torch
from torch import nn

from bridge.errors import ExportError
from bridge.graph.capture import export

FOLLOWED = {
    "sum of two": lambda a, b: a + b,
    "tail": lambda a, b: a[1:],
    "flat": lambda a, b: a.reshape(-1),
    "rows": lambda a, b: a.reshape(2, -1),
    "copy": lambda a, b: a.clone(),
    "joined": lambda a, b: torch.cat([a.flatten(), b.flatten()]),
    "expanded": lambda a, b: a.expand(2, *a.shape),
    "running sum": lambda a, b: a.cumsum(0) % 50,
    "chosen": lambda a, b: a[a > 1],
    "second piece": lambda a, b: a.split(2)[1],
    "turned": lambda a, b: a.flip(0),
    "transposed": lambda a, b: a.transpose(0, -1),
    "one more": lambda a, b: a.add_(1),
    "first": lambda a, b: a.__setitem__(0, 7),
    "copied": lambda a, b: a.copy_(b),
    "limited": lambda a, b: a.clamp_(max=3),
    "filled": lambda a, b: a.index_fill_(0, torch.tensor([0]), 9),
    "masked": lambda a, b: a.masked_fill_(a > 2, 5),
    "zeros": lambda a, b: a.zero_(),
    "into": lambda a, b: torch.add(a, 1, out=b) if a.shape == b.shape else None,
}
NOT_FOLLOWED = {
    "strided": lambda a, b: a.as_strided((2,), (1,)),
    "exchanged": lambda a, b: a.swapaxes(0, -1),
    "alias": lambda a, b: torch.ops.aten.alias(a),
    "no negative": lambda a, b: torch.nn.functional.relu(a.sub_(2), inplace=True),
    "by an operator": lambda a, b: torch.ops.aten.mul_(a, 2),
}
STEPS = FOLLOWED | NOT_FOLLOWED


class Program(nn.Module):
    """Steps on tensors of its pool, whose results join the pool, and the sums of them all."""

    def __init__(self, seed):
        super().__init__()
        self.register_buffer("held", torch.arange(6))
        chance, self.steps = random.Random(seed), []
        pool = self.pool()
        while len(self.steps) < 6:
            name, first, second = (
                chance.choice([*FOLLOWED] * 6 + [*NOT_FOLLOWED]),
                *chance.choices(range(len(pool)), k=2),
            )
            if self.is_possible(name, pool, first, second):
                self.steps.append((name, first, second))
                self.take(self.steps[-1], pool)

    def pool(self):
        return [self.held + 0, torch.arange(6), torch.zeros(6, dtype=torch.int64)]

    def is_possible(self, name, pool, first, second):
        """On others with their strides: torch.export keeps a step that fails in the program."""
        if not pool[first].numel() or pool[first].is_set_to(pool[second]):
            return False
        others = (torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).zero_() for t in (pool[first], pool[second]))
        try:
            STEPS[name](*others)
        except (RuntimeError, IndexError):
            return False
        return True

    def take(self, step, pool):
        name, first, second = step
        result = STEPS[name](pool[first], pool[second])
        if isinstance(result, torch.Tensor):
            pool.append(result)

    def forward(self, x):
        pool = self.pool()
        for step in self.steps:
            self.take(step, pool)
        for index, tensor in enumerate(pool):
            x = x * 1.5 + int(tensor.sum()) * (index + 1)
        return x


@torch.no_grad()
def test_random_programs():
    """Each is as eager, or refused; most are captured."""
    x, captured, wrong = torch.ones(2), 0, []
    for seed in range(60):
        model = Program(seed).eval()
        try:
            program = export(model, (x,), {}, None)
        except ExportError:
            continue
        captured += 1
        if not torch.equal(program.module(check_guards=False)(x), model(x)):
            wrong.append((seed, model.steps))
        assert model.held.tolist() == list(range(6))
    assert wrong == [] and 20 < captured < 60
