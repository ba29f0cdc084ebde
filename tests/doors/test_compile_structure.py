"""What a compiled model takes and returns: structure, literals, extents that follow from others, scalars."""

from importlib.util import find_spec

import pytest
import torch
from compile_models import Structured
from torch.export import Dim

import bridge
from bridge.engine.call_structure import CallStructure

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def test_structure_of_arguments_and_results():
    args, kwargs = Structured.example()
    compiled = bridge.compile(Structured().eval(), args, kwargs, target="sm86")
    assert [spec.name for spec in compiled.inputs] == ["pair_x", "pair_y", "other_z"]
    assert [(spec.name, spec.dtype) for spec in compiled.outputs] == [
        ("total", "float32"),
        ("input", "float32"),
        ("rest_0", "float32"),
        ("rest_3", "bool"),
    ]
    structure = CallStructure.of_file(compiled.file)
    x, y, z = torch.ones(2, 4), torch.zeros(2, 4), torch.ones(2, 5)
    assert structure.flatten(({"x": x, "y": y}, 2, torch.ones(9)), {"other": {"z": z}}) == [x, y, z]
    assert structure.flatten((), {"other": {"z": z}, "scale": 2, "unused": None, "pair": {"x": x, "y": y}}) == [x, y, z]
    result = structure.unflatten([x, y, z], ["total", "input", "constant", "positive"])
    assert result == {"total": "total", "again": "total", "input": "input", "rest": ["constant", None, 2, "positive"]}


def test_a_literal_that_is_left_out_has_the_value_of_the_example():
    args, kwargs = Structured.example()
    compiled = bridge.compile(Structured().eval(), (args[0],), kwargs, target="sm86")
    x, z = torch.ones(2, 4), torch.ones(2, 5)
    structure = CallStructure.of_file(compiled.file)
    assert structure.flatten(({"x": x, "y": x},), {"other": {"z": z}}) == [x, x, z]


def test_one_tensor_given_twice_is_two_inputs():
    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return a - b

    x = torch.randn(3)
    assert len(bridge.compile(Difference().eval(), (x, x), target="sm86").inputs) == 2


def test_dimensions_that_follow_from_others():
    class Pooled(torch.nn.Module):
        def forward(self, x, y):
            return x.reshape(x.shape[0] // 2, 2, -1).mean(1) + y

    half = Dim("half", min=1, max=16)
    model, args = Pooled().eval(), (torch.randn(6, 4), torch.randn(3, 4))
    compiled = bridge.compile(model, args, dynamic_shapes={"x": {0: 2 * half}, "y": {0: half}}, target="sm86")
    assert [(spec.min, spec.opt, spec.max) for spec in compiled.inputs] == [
        ((2, 4), (6, 4), (32, 4)),
        ((1, 4), (3, 4), (16, 4)),
    ]


def test_scalars_and_integers_keep_rank_and_dtype():
    class Counts(torch.nn.Module):
        def forward(self, x, n):
            return bridge.relu(x.sum()), x.argmax(-1), n + 1, torch.where(x > 0, x.long(), n)

    compiled = bridge.compile(Counts().eval(), (torch.randn(2, 3), torch.tensor(2)), target="sm86")
    assert [(spec.dtype, spec.shape) for spec in compiled.outputs] == [
        ("float32", ()),
        ("int64", (2,)),
        ("int64", ()),
        ("int64", (2, 3)),
    ]


@pytest.mark.gpu(engines=True)
def test_results_have_the_models_structure(device):
    args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), Structured.example())
    model = Structured().eval().to(device)
    compiled = bridge.compile(model, args, kwargs)
    torch.testing.assert_close(compiled(*args, **kwargs), model(*args, **kwargs))
