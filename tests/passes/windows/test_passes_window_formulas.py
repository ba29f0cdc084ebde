"""Formulas of random programs of positions: each element is what PyTorch computes, for several lengths."""

import itertools
import random

import sympy
import torch
from torch.export import Dim

from bridge.graph import capture
from bridge.passes import _constants
from bridge.passes.common.constants import Constants
from bridge.passes.window_attention.band import NoWindow, Window, window_of
from bridge.passes.window_attention.formulas import axis, expression
from bridge.passes.window_attention.operators import RULES
from bridge.passes.window_attention.reader import Reader

COUNT = 8
SIZES = [(4, 7), (5, 5)]
TABLE = torch.ones(12, 12, dtype=torch.bool).tril(2).triu(-3)


class Program:
    """Random tensors of positions, computed from two lengths; the same for each call with one seed."""

    def __init__(self, seed, rows, columns):
        self.random = random.Random(seed)
        self.rows, self.columns = rows, columns

    def integers(self, depth):
        """[S, T], or what broadcasts to it."""
        if depth == 0:
            return self.random.choice([self.row, self.column])()
        return self.random.choice([self.shifted, self.difference, self.indexed, self.chosen, self.distance])(depth - 1)

    def row(self):
        return torch.arange(self.rows)[:, None] + self.random.randrange(3)

    def column(self):
        return torch.arange(self.random.randrange(2), self.columns + 5)[: self.columns]

    def shifted(self, depth):
        return (self.integers(depth) * self.random.choice([1, 2, -1]) - self.random.randrange(4)).to(torch.int32)

    def difference(self, depth):
        return self.row() - self.integers(depth)

    def distance(self, depth):
        return (self.row() - self.column()).abs()

    def indexed(self, depth):
        numbers = torch.cat([torch.arange(1) - 1, torch.arange(30)])
        return numbers[self.random.choice([self.row, self.column])()]

    def chosen(self, depth):
        return torch.where(self.condition(depth), self.integers(depth), self.random.randrange(5))

    def condition(self, depth):
        """Boolean, the same shapes."""
        if depth == 0:
            return self.compared(0)
        ways = [self.compared, self.compared, self.combined, self.triangle, self.cut, self.turned]
        return self.random.choice(ways)(depth - 1)

    def compared(self, depth):
        compare = self.random.choice([torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne])
        return compare(self.integers(depth), self.random.choice([self.row(), self.column(), 2]))

    def combined(self, depth):
        combine = self.random.choice([torch.logical_and, torch.bitwise_or, torch.mul, lambda a, b: a & ~b])
        return combine(self.condition(depth), self.condition(depth))

    def triangle(self, depth):
        whole = self.condition(depth).expand(self.rows, self.columns)
        return self.random.choice([torch.tril, torch.triu])(whole, diagonal=self.random.randrange(-2, 3))

    def cut(self, depth):
        return TABLE[None, 1 : self.rows + 1, : self.columns][0]

    def turned(self, depth):
        whole = self.condition(depth).expand(self.rows, self.columns)
        return whole.transpose(0, 1)[None].permute(0, 2, 1).squeeze(0).contiguous()

    def numbers(self):
        """[S, T], a mask that is added to logits."""
        seen = self.condition(2).expand(self.rows, self.columns)
        zeros = torch.zeros(self.rows, self.columns)
        ways = [
            lambda: zeros.masked_fill(seen, -65504.0),
            lambda: (1.0 - seen.to(torch.float32)) * torch.finfo(torch.float32).min,
            lambda: torch.where(seen, 0.0, torch.full((), -1e9)).half(),
        ]
        return self.random.choice(ways)()


def results(x, y):
    programs = [Program(seed, x.shape[0], y.shape[0]) for seed in range(COUNT)]
    whole = [program.condition(3).expand(program.rows, program.columns) for program in programs]
    return [*whole, *(program.numbers() for program in programs[::3])]


class Results(torch.nn.Module):
    def forward(self, x, y):
        return results(x, y)


def element(formula, indices, lengths):
    """An element of a formula; exactly one of its conditions holds."""
    change = {axis(dim): index for dim, index in enumerate(indices)} | lengths
    (value,) = [value for condition, value in formula.cases if condition.xreplace(change) == True]  # noqa: E712
    return value.xreplace(change) if hasattr(value, "xreplace") else value


def test_every_element():
    lengths = {"x": {0: Dim("rows", min=2, max=10)}, "y": {0: Dim("columns", min=2, max=10)}}
    program = capture.export(Results().eval(), (torch.zeros(4), torch.zeros(7)), {}, lengths)
    reader = Reader(RULES, Constants(_constants(program)), set())
    outputs = program.graph.output_node().args[0]
    formulas = [reader.formula(node) for node in outputs]
    assert not reader.unknown
    rows, columns = (expression(extent) for extent in outputs[0].meta["val"].shape)
    for size in SIZES:
        expected = results(*(torch.zeros(length) for length in size))
        for formula, tensor in zip(formulas, expected, strict=True):
            for indices in itertools.product(*map(range, size)):
                actual = element(formula, indices, dict(zip((rows, columns), size, strict=True)))
                assert actual == tensor[indices].item(), (formula, indices)


def _random_condition(generator, depth=3):
    """A combination of comparisons of the distance of key j and query i with constants from -6 to 6."""
    if depth == 0 or generator.random() < 0.3:
        query, key, constant = axis(0), axis(1), generator.randrange(-6, 7)
        comparisons = [key - query <= constant, 2 * key > 2 * query + constant, sympy.Ne(query, key + constant)]
        return generator.choice([*comparisons, query - constant < key])
    combine = generator.choice([sympy.And, sympy.Or, lambda a, b: sympy.And(a, sympy.Not(b))])
    return combine(_random_condition(generator, depth - 1), _random_condition(generator, depth - 1))


def test_windows_of_random_conditions():
    """Against the distances that are seen, one by one: an interval around 0 is a window, all else is none."""
    generator, found = random.Random(0), 0
    for _ in range(100):
        condition = _random_condition(generator)
        seen = [bool(condition.xreplace({axis(0): 20, axis(1): 20 + d})) for d in range(-9, 10)]
        first, last = (seen.index(True), 18 - seen[::-1].index(True)) if any(seen) else (18, 0)
        try:
            window = window_of(condition, (40, 40))
        except NoWindow:
            assert not (first <= 9 <= last and all(seen[first : last + 1])), condition
        else:
            expected = Window(-1 if seen[0] else 9 - first, -1 if seen[-1] else last - 9)
            assert window == expected and all(seen[first : last + 1]), condition
            found += 1
    assert 10 < found < 90
