"""What tensors ops take: the same checks for every op and every tensor, before anything runs."""

import re

import pytest
import torch
from samples import FIXED, MODULES, RANDOM

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.core.tensors import ANY, Floating, Index, LikeFirst, LikeFirstOrFloat32, dtypes_of
from bridge.errors import OpInputError

CALLS = {name: RANDOM[name](11) if name in FIXED else MODULES[name].samples()[-1][1:] for name in OPS}
TENSORS = [
    (name, place, OPS[name].tensors[place])
    for name, (args, _) in CALLS.items()
    for place, value in enumerate(args)
    if isinstance(value, torch.Tensor)
]


def _is_taken(name, place, dtype):
    return dtype in OPS[name].dtypes[place].names


def changed(name, place, change):
    args, kwargs = CALLS[name]
    return [change(value) if i == place else value for i, value in enumerate(args)], kwargs


NEVER_TAKEN = (torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.int8)
REFUSED = [
    (*each, dtype) for each in TENSORS for dtype in (*NEVER_TAKEN, torch.bool) if not _is_taken(*each[:2], dtype)
]


@pytest.mark.parametrize(("name", "place", "tensor", "dtype"), REFUSED)
def test_dtypes_that_no_kernel_has(name, place, tensor, dtype):
    if dtype in OPS[name].dtypes[place].names:
        pytest.skip("the op takes it")
    args, kwargs = changed(name, place, lambda value: value.to(dtype))
    for call in (getattr(bridge, name), OPS[name].overload):  # the function, and what a graph holds
        with pytest.raises(OpInputError, match=rf"^{name}: {tensor} is {dtype}, expected torch\.") as error:
            call(*args, **kwargs)
        expected = OPS[name].dtypes[place].of(args[0].dtype if place else torch.float32)
        named = re.findall(r"torch\.\w+", str(error.value).partition("expected")[2])
        assert named == [str(each) for each in expected]


def test_rules_are_those_of_the_native_library():
    for name, dtypes in libraries.plugin_dtypes().items():
        on_cpu = [str(dtype).removeprefix("torch.") for dtype in OPS[name].dtypes[0].of(torch.float32)]
        assert on_cpu == [*dtypes, *(["float64"] if "float32" in dtypes else [])], name


FORMS = {
    "sparse_coo": (torch.Tensor.to_sparse, "is a sparse_coo tensor, expected a dense one; call to_dense()"),
    "sparse_csr": (torch.Tensor.to_sparse_csr, "is a sparse_csr tensor, expected a dense one; call to_dense()"),
    "mkldnn": (torch.Tensor.to_mkldnn, "is a _mkldnn tensor, expected a dense one; call to_dense()"),
    "quantized": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "is a quantized tensor, expected a dense one; call dequantize()",
    ),
    "nested": (
        lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]),
        "is a nested tensor, expected a dense one; see torch.nested.to_padded_tensor",
    ),
    "rank 9": (lambda x: x.reshape(1, 1, 1, 1, 1, 1, 1, *x.shape), "has 9 dimensions, (1, 1, 1, 1, 1, 1, 1, 3, 4)"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:Sparse CSR", "ignore:torch.quantize")
@pytest.mark.parametrize("form", FORMS)
def test_tensors_without_strides_and_with_too_many_dimensions(form):
    make, text = FORMS[form]
    for call in (bridge.relu, OPS["relu"].overload):
        with pytest.raises(OpInputError, match=rf"^relu: x {re.escape(text)}"):
            call(make(torch.randn(3, 4)))
    args, kwargs = changed("rope", 3, lambda value: make(torch.randn(3, 4)))
    with pytest.raises(OpInputError, match=rf"^rope: sin {re.escape(text)}"):
        bridge.rope(*args, **kwargs)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_jagged_tensors():
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    with pytest.raises(OpInputError, match=r"^relu: x is a nested tensor"):
        bridge.relu(jagged)


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((3.0,), {}, "relu: x is 3.0, expected a tensor"),
        ((None,), {}, "relu: missing arguments: x"),
        ((torch.ones(2), "steep"), {}, "relu: negative_slope is 'steep', expected float"),
        ((torch.ones(2), torch.ones(2)), {}, r"relu: negative_slope is tensor\(\[1., 1.\]\), expected float"),
        ((torch.ones(2),), {"slope": 1.0}, "relu: arguments unknown or given twice: .'slope'."),
    ],
)
def test_arguments_of_another_kind(args, kwargs, text):
    with pytest.raises(OpInputError, match=text):
        bridge.relu(*args, **kwargs)


def test_float64_is_for_cpus():
    """A fake tensor of a GPU stands for one, as in a capture."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(3, dtype=torch.float64, device="cuda")
        with pytest.raises(OpInputError, match=r"x is torch.float64, expected torch.float32, .* or torch.bfloat16$"):
            bridge.relu(x)
        assert bridge.relu(x.float()).device.type == "cuda" and bridge.relu(x.cpu()).dtype == torch.float64


def test_annotations():
    assert dtypes_of(torch.Tensor) is ANY and dtypes_of(torch.Tensor | None) is ANY
    assert dtypes_of(LikeFirst | None).of(torch.float16) == (torch.float16,)
    assert dtypes_of(LikeFirstOrFloat32).of(torch.float16) == (torch.float16, torch.float32)
    assert dtypes_of(Index).of(torch.float32) == (torch.int32, torch.int64)
    assert torch.float64 in dtypes_of(Floating).of(torch.float16)


def test_models_with_such_tensors_are_refused_where_they_are_captured():
    class Model(torch.nn.Module):
        def forward(self, x):
            return bridge.relu(x.to(torch.float8_e4m3fn))

    with pytest.raises(bridge.BridgeError, match=r"relu: x is torch\.float8_e4m3fn, expected torch\.float32"):
        bridge.compile(Model().eval(), (torch.ones(3),), target="sm86", cache=False)
