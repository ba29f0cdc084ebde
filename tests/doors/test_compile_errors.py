"""What cannot be compiled is refused with the reason, the place and a way out."""

import re
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from refused_models import BATCH, Model, refused
from torch import nn
from torch.export import Dim

import bridge
from bridge import errors
from bridge.tensorrt.network import convertible_graph, interpreter

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def test_operators_without_a_converter_are_all_named_with_their_lines():
    class Spectrum(nn.Module):
        def forward(self, x):
            first = torch.fft.fft(x).real
            return first + torch.fft.fft(x + 1).real + torch.linalg.svd(x)[1].sum()

    text = refused(errors.UnsupportedOpError, lambda model, x: Spectrum()(x))
    assert re.search("cannot run [23] of the model's operators", text)  # torch 2.14: .real reads pairs
    assert "aten._fft_r2c.default (2 uses): it has no converter" in text
    assert "aten._linalg_svd.default (1 use)" in text and "getitem" not in text
    assert f"{__file__}:" in text and "in forward: first = torch.fft.fft(x).real" in text
    assert "make an op of them in a package of yours (`bridge new op acme::corr`)" in text


def test_results_whose_shape_depends_on_values_are_refused():
    text = refused(errors.UnsupportedOpError, lambda model, x: torch.nonzero(x))
    assert "aten.nonzero.default (1 use): the shape of its result depends on values" in text


def test_dtypes_that_tensorrt_lacks_are_named():
    assert "its result is torch.float64, which TensorRT lacks" in refused(
        errors.UnsupportedOpError, lambda model, x: (x.double() * 2).float()
    )
    text = refused(errors.ExportError, lambda model, x: x + 1, x=torch.randn(2, 4).double())
    assert "input 'x' is torch.float64, which TensorRT lacks; convert the model and its inputs" in text


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_dtypes_are_said_to_be_lacking_where_they_do(dtype):
    """TensorRT has one of the two, and bridge does not convert it."""
    who = "bridge does not convert" if dtype == torch.float8_e4m3fn else "TensorRT lacks"
    text = refused(errors.UnsupportedOpError, lambda model, x: (x * 2).to(dtype).float())
    assert f"its result is {dtype}, which {who}" in text
    text = refused(errors.ExportError, lambda model, x: x.float() + 1, x=torch.ones(2, 4).to(dtype))
    assert f"input 'x' is {dtype}, which {who}; convert it before the model" in text


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_arguments_without_strides_are_refused():
    ragged = [torch.ones(2), torch.ones(3)]
    forms = {
        "is a sparse_coo tensor, expected a dense one; call to_dense() on it": torch.eye(2).to_sparse(),
        "is a nested tensor": torch.nested.nested_tensor(ragged),
        "is a nested tensor, ": torch.nested.nested_tensor(ragged, layout=torch.jagged),
        "has 9 dimensions": torch.zeros(2, 1, 1, 1, 1, 1, 1, 1, 1),
    }
    for text, x in forms.items():
        assert refused(errors.ExportError, lambda model, x: x + 1, x=x).startswith(f"args[0] {text}")
    with pytest.raises(errors.ExportError, match=r"kwargs\['x'\] is a sparse_csr tensor"):
        model = Model(lambda model, x: x).eval()
        bridge.compile(model, (), {"x": torch.eye(2).to_sparse_csr()}, target="sm86")


def test_inputs_without_elements_are_named_where_tensorrt_refuses_them():
    text = refused(errors.BuildError, lambda model, x: x.reshape(3, 0), x=torch.zeros(0, 3))
    assert "nothing to do for the input 'x' of shape (0, 3): give an example with elements" in text


def test_inputs_without_elements_that_tensorrt_takes_are_built():
    class Doubled(nn.Module):
        def forward(self, x):
            return x * 2

    assert bridge.compile(Doubled().eval(), (torch.zeros(0, 3),), target="sm86").outputs[0].shape == (0, 3)


def test_dropout_in_attention_is_refused():
    text = refused(
        errors.UnsupportedOpError,
        lambda model, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        x=torch.randn(1, 2, 3, 4),
    )
    assert "an engine has no dropout; pass dropout_p=0.0 in eval mode" in text


def test_models_in_training_mode_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    with pytest.raises(
        errors.ExportError, match=r"in training mode \(its dropout and batch norm: 1, 2\); call model.eval"
    ):
        bridge.compile(model, (torch.randn(2, 4),), target="sm86")
    model.eval()[2].train()
    with pytest.raises(errors.ExportError, match=r"batch norm: 2\)"):
        bridge.compile(model, (torch.randn(2, 4),), target="sm86")


@pytest.mark.parametrize(
    ("function", "rows", "texts"),
    [
        (lambda model, x: x + 1, 1, ["constant (1)", "give an example whose dynamic dimensions are 2 or more"]),
        (lambda model, x: x.reshape(2, 4) + 1, 2, ["constant (2)", "holds that dimension to the example's extent"]),
        (
            lambda model, x: x.reshape(-1, 8),
            4,
            ["Mod(4*x.shape[0], 8)", "dynamic_shapes allows x.shape[0] = 1", "8 * Dim"],
        ),
    ],
)
def test_dynamic_shapes_that_the_model_does_not_bear(function, rows, texts):
    x = torch.randn(rows, 4)
    text = refused(errors.ExportError, function, x=x, dynamic_shapes={"x": {0: BATCH}})
    assert all(part in text for part in texts)
    assert "TORCH_LOGS" not in text


def test_dynamic_dimensions_need_an_upper_bound():
    text = refused(errors.ExportError, lambda model, x: x + 1, dynamic_shapes={"x": {0: Dim("batch")}})
    assert "input 'x', dimension 0 has no upper bound; give it one: torch.export.Dim(name, min=..., max=...)" in text


def test_branches_on_values_are_refused():
    text = refused(errors.ExportError, lambda model, x: x if x.sum() > 0 else -x)
    assert "data-dependent" in text and "use torch.where, or compute both" in text


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda model, x: x + model.count.add_(1), "the model writes to 'count'; an engine only reads"),
        (lambda model, x: x.add_(1) * 2, "the model writes to 'x'; an engine only reads"),
        (lambda model, x: None, "the model returns no tensor"),
    ],
)
def test_what_an_engine_cannot_return_or_write(function, text):
    assert text in refused(errors.ExportError, function)


def test_numbers_taken_from_shapes_are_no_outputs():
    text = refused(
        errors.ExportError, lambda model, x: {"x": x + 1, "rows": x.shape[0]}, dynamic_shapes={"x": {0: BATCH}}
    )
    assert "the model returns rows, a number taken from a shape" in text


def test_classes_that_cannot_be_written_down_are_named():
    class Pair:
        def __init__(self, x):
            self.x = x

    torch.utils._pytree.register_pytree_node(Pair, lambda pair: ([pair.x], None), lambda leaves, _: Pair(leaves[0]))
    text = refused(errors.ExportError, lambda model, x: Pair(x + 1))
    assert "Pair" in text and "register it with torch.export.register_dataclass" in text


def test_targets_that_do_not_exist_are_refused_before_any_work():
    assert "does not build for sm99 here; pass target= one of sm75" in refused(
        errors.TargetError, lambda model, x: 1 / 0, target="sm99"
    )


@pytest.mark.parametrize(
    ("model", "args", "text"),
    [
        (lambda x: x, (torch.ones(1),), "model is a function, expected torch.nn.Module"),
        (nn.Identity().eval(), torch.ones(1), "args is a Tensor, expected a tuple"),
    ],
)
def test_arguments_of_other_types(model, args, text):
    with pytest.raises(TypeError, match=text):
        bridge.compile(model, args, target="sm86")


def test_exported_programs_come_without_arguments():
    program = torch.export.export(Model(lambda model, x: x + 1).eval(), (torch.ones(2),))
    with pytest.raises(TypeError, match="has its example arguments"):
        bridge.compile(program, (torch.ones(2),), target="sm86")


def test_unknown_settings_name_the_nearest():
    with pytest.raises(TypeError, match="no setting 'targte'; did you mean 'target'"):
        bridge.compile(nn.Identity().eval(), (torch.ones(1),), targte="sm86")


def test_errors_of_converters_name_the_line(monkeypatch):
    def broken(network, value, declared):
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(interpreter, "as_declared", broken)
    text = refused(errors.BuildError, lambda model, x: x + 1)
    assert "cannot be converted: the moon is full" in text or "the moon is full" in text


def test_a_lost_op_is_an_error(monkeypatch):
    monkeypatch.setattr(
        convertible_graph,
        "expand_attention",
        lambda module: module.graph.output_node().replace_input_with(*swap(module)),
    )

    def swap(module):
        relu = next(node for node in module.graph.nodes if node.target is torch.ops.bridge.relu.default)
        return relu, relu.args[0]

    text = refused(errors.BuildError, lambda model, x: bridge.relu(x))
    assert "lowering changed the number of bridge's ops from {'relu': 1} to {}" in text


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "argument x is missing"),
        ((1, 2), {}, "got 2 arguments; the model takes x"),
        ((1,), {"x": 2}, "arguments given twice or not in the example: x"),
        ((), {"y": 2}, "arguments given twice or not in the example: y; it had x"),
        (([1, 2],), {}, "argument x has the structure"),
    ],
)
def test_calls_that_do_not_fit_the_example(args, kwargs, text):
    compiled = bridge.compile(Model(lambda model, x: x + 1).eval(), (torch.ones(2),), target="sm86")
    with pytest.raises(errors.EngineInputError) as caught:
        compiled(*args, **kwargs)
    assert text in str(caught.value)


def test_calls_with_another_literal_are_refused():
    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale

    compiled = bridge.compile(Scaled().eval(), (torch.ones(2), 3), target="sm86")
    with pytest.raises(errors.EngineInputError, match="argument scale is 4; the engine was compiled with 3"):
        compiled(torch.ones(2), 4)
