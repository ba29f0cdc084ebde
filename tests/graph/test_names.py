"""Names of a model's parts and of keys of its arguments that no Python code can hold as they are."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted, just_in_time
from torch import nn

import bridge
from bridge.errors import ExportError
from bridge.graph.capture import export
from bridge.graph.valid_names import with_valid_names
from bridge.passes import rewrite

NAMES = ["class", 'a"b', "a'b", "a\\b", "a\nb", "größe 1"]
X = torch.linspace(-3, 9, 8).reshape(2, 4)


class Named(nn.Module):
    """A module, a parameter, a buffer, and keys of its argument and result of one name."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.parts = nn.ModuleDict({name: nn.Linear(4, 4)})
        self.tensors = nn.ParameterDict({f"{name}": nn.Parameter(torch.ones(4))})
        self.register_buffer(name, torch.arange(4.0))

    def forward(self, inputs):
        x = self.parts[self.name](inputs[self.name]) * self.tensors[self.name]
        return {self.name: bridge.relu(x + self._buffers[self.name], 0.1, 6.0)}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_code_cannot_hold(name):
    torch.manual_seed(0)
    model = Named(name).eval()
    with interpreted():
        compiled = ahead(model, ({name: X},))
        assert_same(compiled({name: X}), model({name: X}), 1e-5, 1e-5)
        assert compiled.plugin_counts() == {"relu": 1} and "relu" in compiled.explain()


@pytest.mark.parametrize("name", ["class", 'a"b'])
def test_modules_by_torch_compile(name):
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Linear(4, 4)})

        def forward(self, x):
            return bridge.relu(self.parts[name](x), 0.1, 6.0)

    torch._dynamo.reset()
    model = Parts().eval()
    with interpreted():
        compiled = just_in_time(model)
        assert_same(compiled(X), model(X), 1e-5, 1e-5)
        assert "relu" in str(bridge.report(compiled))


def test_what_code_can_hold_stays_as_it_is():
    program = export(nn.Sequential(nn.Linear(4, 4)).eval(), (X,), {}, None)
    assert with_valid_names(program) is program


def test_an_argument_called_like_a_function_of_python():
    class Model(nn.Module):
        def forward(self, input):
            return nn.functional.leaky_relu(input, 0.1).clamp(max=6)

    program, outcomes = rewrite(export(Model().eval(), (X,), {}, None), ["relu"])
    assert [outcome.replaced for outcome in outcomes] == [True]
    torch.testing.assert_close(program.module()(X), Model()(X))


def test_names_that_would_become_one():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('a"', torch.ones(4))
            self.register_buffer("a__", 2 * torch.ones(4))
            self.register_buffer("a'", 3 * torch.ones(4))

        def forward(self, x):
            return x + self._buffers['a"'] * 10 + self._buffers["a__"] * 100 + self._buffers["a'"]

    program = export(Both().eval(), (X,), {}, None)
    found = with_valid_names(program)
    assert len(found.state_dict) == 3 and "a__" in found.state_dict and 'a"' in program.state_dict
    torch.testing.assert_close(found.run_decompositions({}).module()(X), X + 213)


def test_a_dot_in_a_name_is_told():
    model = nn.Sequential()
    model._modules["a.b"] = nn.Linear(4, 4)
    with pytest.raises(ExportError, match="one of the model's own names has a dot in it"):
        bridge.compile(model.eval(), (X,), target="sm86")
