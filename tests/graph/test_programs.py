"""Programs that write in place, alias and branch: at every door their network computes what eager does."""

import pytest
import torch
from compile_models import BATCH
from oracle import ahead, assert_same, just_in_time
from programs import STEPS, Program

pytestmark = pytest.mark.usefixtures("evaluated")
X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(1))
RANDOM = 4  # programs of eight steps


def check(model, compiled, *inputs, mark=lambda x: x):
    for x in inputs:
        assert_same(compiled(mark(x.clone())), model(x.clone()), 1e-4, 1e-4)


def static_ahead(model):
    check(model, ahead(model, (X,)), X)


def dynamic_ahead(model):
    check(model, ahead(model, (X,), ({0: BATCH},)), X, OTHER)


def static_in_time(model):
    check(model, just_in_time(model, dynamic=False), X, OTHER)


def dynamic_in_time(model):
    def mark(x):
        torch._dynamo.mark_dynamic(x, 0, min=2, max=16)
        return x

    check(model, just_in_time(model), X, OTHER, mark=mark)


DOORS = [static_ahead, dynamic_ahead, static_in_time, dynamic_in_time]


@pytest.mark.parametrize("name", STEPS)
def test_each_step(name):
    """A door with a dynamic batch for each step, in turns; a GPU runs them all."""
    door = (dynamic_ahead, dynamic_in_time)[list(STEPS).index(name) % 2]
    door(Program(1, [name]).eval())


@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_programs(seed):
    DOORS[(seed % 2) * 2 + 1](Program(seed).eval())
