"""Plain torch becomes regions: what is passed to kernels, what is refused, and what is left behind."""

import os
import re
import sys
from pathlib import Path

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch.fx import symbolic_trace

from bridge.errors import UnsupportedOpError
from bridge.generate import inductor
from bridge.generate.inductor import lower, torch_inductor
from bridge.generate.program import Copy, Launch, Pointer, Symbol, TensorType

B, N = sympy.symbols("b n", integer=True, nonnegative=True)
SYMBOLS = (Symbol(B, 0, 0, 1, 16, 4), Symbol(N, 0, 1, 1, 4096, 256))
MATRIX = TensorType(torch.float32, (B, N))


def lowered(function, *inputs, symbols=SYMBOLS):
    return lower(function, inputs or (MATRIX,), symbols)


def launches(result):
    return [step for step in result.region.steps if isinstance(step, Launch)]


def test_a_kernel_its_arguments_and_its_grid():
    result = lowered(torch.relu)
    (launch,) = result.region.steps
    assert result.outputs == (MATRIX,) and result.region.conditions == () and result.region.buffers == ()
    source, target, count = launch.arguments
    assert (source.type, source.value, source.divisible) == ("*fp32", Pointer("input", 0), "maybe")
    assert (target.type, target.value, target.divisible) == ("*fp32", Pointer("output", 0), "maybe")
    assert (count.name, count.type, count.value, count.divisible) == ("xnumel", "i32", B * N, "never")
    for one in launch.configurations:
        (block,) = (one.constants[name] for name in launch.kernel.arg_names if name == "XBLOCK")
        x, y, z = one.grid
        assert [x.subs({B: 3, N: 100}), y, z] == [-(-300 // block), 1, 1] and one.options["num_warps"] >= 1


def test_configurations_are_chosen_for_the_example():
    small, large = (
        lowered(lambda x: x.sum(-1), symbols=(SYMBOLS[0], Symbol(N, 0, 1, 1, 2**20, example)))
        for example in (64, 2**20)
    )
    blocks = [launches(one)[0].configurations[0].constants["R0_BLOCK"] for one in (small, large)]
    assert blocks[0] < blocks[1]


def test_a_kernel_of_which_inductor_has_one_configuration_has_others_to_measure():
    (launch,) = launches(lowered(lambda x: x.softmax(-1), TensorType(torch.float32, (B, 200))))
    warps = [each.options["num_warps"] for each in launch.configurations]
    assert 2 <= len(warps) <= 8 and len(set(warps)) > 1
    assert len({(str(each.constants), str(each.options)) for each in launch.configurations}) == len(warps)


def test_what_inductor_would_measure_is_among_the_configurations():
    """Its own choice has one row a program; a word in the kernel's source, which torch may change, adds others."""
    (launch,) = launches(lowered(lambda x: x - x.mean(-1, keepdim=True), TensorType(torch.float32, (B, 3000))))
    rows = [each.constants["XBLOCK"] for each in launch.configurations]
    assert rows[0] == 1 and max(rows) > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.int64])
def test_dtypes(dtype):
    result = lowered(lambda x: x + 1, TensorType(dtype, (B, N)))
    (launch,) = launches(result)
    spelt = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}[dtype]
    assert [one.type for one in launch.arguments[:2]] == [spelt] * 2 and result.outputs[0].dtype == dtype


def test_extents_beyond_32_bits_are_indexed_with_64_or_excluded():
    wide = Symbol(N, 0, 1, 1, 2**40, 256)
    result = lowered(torch.relu, symbols=(SYMBOLS[0], wide))
    assert result.region.conditions == (sympy.Le(B * N, 2**31 - 1),)
    result = lowered(torch.relu, symbols=(SYMBOLS[0], Symbol(N, 0, 1, 2**32, 2**40, 2**33)))
    assert result.region.conditions == () and [one.type for one in launches(result)[0].arguments][-1] == "i64"


def test_several_outputs_have_memory_of_their_own():
    result = lowered(lambda x: (x, x.t(), x + 1, x.sum(-1)))
    assert [one.shape for one in result.outputs] == [(B, N), (N, B), (B, N), (B,)]
    written = {one.value for step in launches(result) for one in step.arguments if isinstance(one.value, Pointer)}
    assert {Pointer("output", index) for index in range(4)} <= written
    twice = lowered(lambda x: [x.exp()] * 2)
    copied = {one.target for one in twice.region.steps if isinstance(one, Copy)}
    written = {one.value for step in launches(twice) for one in step.arguments if isinstance(one.value, Pointer)}
    assert {Pointer("output", 0), Pointer("output", 1)} <= written | copied


def test_an_absent_tensor_an_unused_one_and_a_number():
    def function(x, absent, unused, width):
        assert absent is None
        return x.new_zeros(x.shape[0], width) + width

    result = lowered(function, MATRIX, None, MATRIX, 2 * N)
    assert result.outputs == (TensorType(torch.float32, (B, 2 * N)),)
    assert [one.value for one in launches(result)[0].arguments if isinstance(one.value, Pointer)] == [
        Pointer("output", 0)
    ]
    second = lowered(lambda x, absent, y: y * 2, MATRIX, None, MATRIX)
    assert Pointer("input", 2) in [one.value for one in launches(second)[0].arguments]


def test_symbols_are_numbers_of_the_function_too():
    def function(x, rows, width, factor):
        return x.cumsum(1) * rows + torch.ones(rows, width) * factor

    for first in (SYMBOLS[0], Symbol(B, 0, 0, 1, 16, 1), Symbol(B, 0, 0, 4, 4, 4)):
        result = lower(function, (MATRIX, B, N, 5), (first, SYMBOLS[1]))
        assert result.outputs[0].shape[1] == N and launches(result)


def test_a_graph_module_can_be_lowered():
    module = symbolic_trace(lambda x: torch.relu(x) + 1)
    assert len(launches(lowered(module))) == 1


def test_fixed_extents_need_no_symbols():
    result = lower(lambda x: x.softmax(-1), (TensorType(torch.float16, (3, 40)),), ())
    (launch,) = launches(result)
    assert launch.configurations[0].grid[1:] == (1, 1) and result.outputs[0].shape == (3, 40)


def test_constants_become_part_of_a_kernel():
    weights = torch.tensor([[1.0, 2.0, 1.0], [0.5, 0.25, 0.0], [3.0, 4.0, 5.0]])
    result = lower(lambda x: x @ weights, (TensorType(torch.float32, (N, 3)),), (Symbol(N, 0, 0, 1, 64, 16),))
    assert launches(result)
    table = torch.zeros(65)
    with pytest.raises(UnsupportedOpError, match=r"constant tensor of shape \(65,\).*at most 64.*make it an input"):
        lowered(lambda x: x.sum() + table)


def test_a_function_that_asks_for_an_extent_is_right_for_its_answer():
    def function(x):
        return x.sum(-1) if x.shape[1] > 100 else x.amax(-1)

    assert lowered(function).region.conditions == (sympy.Gt(N, 100),)
    few = lowered(function, symbols=(SYMBOLS[0], Symbol(N, 0, 1, 1, 4096, 5)))
    assert few.region.conditions == (sympy.Le(N, 100),)


def test_extents_of_one_are_told_apart_where_it_matters():
    scan = lowered(lambda x: x.cumsum(-1))
    assert scan.region.conditions == (sympy.Ge(B, 2), sympy.Ge(N, 2))
    at_one = lowered(lambda x: x.cumsum(-1), symbols=(Symbol(B, 0, 0, 1, 16, 1), SYMBOLS[1]))
    assert at_one.region.conditions == (sympy.Eq(B, 1), sympy.Ge(N, 2))
    other = (TensorType(torch.float32, (B,)), TensorType(torch.float32, (N,)))
    sums = lower(torch.add, other, (Symbol(B, 0, 0, 1, 16, 1), Symbol(N, 1, 0, 1, 99, 9)))
    assert sums.region.conditions == (sympy.Eq(B, 1), sympy.Ge(N, 2)) and sums.outputs[0].shape == (N,)
    squeezed = lowered(lambda x: x.squeeze(0))
    assert squeezed.region.conditions == (sympy.Ne(B, 1),)
    assert lowered(lambda x: x.squeeze(0), symbols=(Symbol(B, 0, 0, 1, 16, 1), SYMBOLS[1])).outputs[0].shape == (N,)


def fails(x):
    raise ValueError("bad news")


def test_an_extent_of_0_is_told_apart_where_the_function_does():
    symbols = (Symbol(B, 0, 0, 0, 16, 4), SYMBOLS[1])
    assert lowered(lambda x: x.softmax(-1).sum(0), symbols=symbols).region.conditions == ()
    result = lowered(lambda x: x + 1 if x.shape[0] > 0 else x.new_zeros(1), symbols=symbols)
    assert [one.subs(B, number) for one in result.region.conditions for number in (0, 1)] == [False, True]


REFUSALS = {
    "aten.topk.default: Inductor has no Triton kernel for it": lambda x: x.topk(1).values,
    "aten.convolution.default: Inductor has no Triton kernel": lambda x: F.conv1d(x[:, None], x.new_ones(1, 1, 3)),
    "aten.rand.*: its random numbers would not be torch's": lambda x: torch.rand_like(x),
    "aten.nonzero.default: the shape of its result depends on values": lambda x: x.nonzero(),
    "aten._local_scalar_dense.default: the function needs a value on the host": lambda x: x[:, : int(x.sum())],
    "no kernel can be made: bad news": fails,
    "aten.copy_.default: it writes to arg0_1 in place; return the result": lambda x: x.add_(1),
    "aten._fft_r2c.default: kernels have no complex numbers": lambda x: torch.fft.rfft(x).abs(),
    "output 0 is float64; plugins return float32": lambda x: x.double(),
    "output 1 is bool; plugins return float32": lambda x: (x, x > 0),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_what_no_kernel_does_is_named_with_its_line(message):
    function = REFUSALS[message]
    with pytest.raises(UnsupportedOpError, match=message) as refusal:
        lowered(function)
    line = function.__code__.co_firstlineno + (function is fails)
    assert f"{__file__}:{line} in {function.__name__}" in str(refusal.value)


@pytest.mark.parametrize("result", [3, None])
def test_outputs_are_tensors(result):
    with pytest.raises(UnsupportedOpError, match=f"output 1 is {result}; plugins return tensors"):
        lowered(lambda x: (x, result))


def test_devices_that_a_function_names_are_those_of_its_inputs():
    result = lowered(lambda x: x + torch.ones(x.shape[-1], device="cuda") * torch.arange(x.shape[-1], device="cpu"))
    assert len(launches(result)) == 1


def test_other_dtypes_are_for_memory_between_kernels():
    result = lower(lambda x: x > 0, (TensorType(torch.float64, (B, N)),), SYMBOLS, any_dtype=True)
    assert [one.type for one in launches(result)[0].arguments[:2]] == ["*fp64", "*i1"]


def test_inputs_of_other_dtypes_are_refused():
    with pytest.raises(UnsupportedOpError, match=r"an input is torch\.float64; plugins take float32, float16"):
        lowered(torch.relu, TensorType(torch.float64, (B, N)))


def test_nothing_is_left_behind(monkeypatch):
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    environment, settings = dict(os.environ), torch_inductor.inductor_config.get_config_copy()
    answer = torch.utils._triton.has_triton()
    lowered(torch.relu)
    assert dict(os.environ) == environment and torch_inductor.inductor_config.get_config_copy() == settings
    assert torch.utils._triton.has_triton() == answer == torch.cuda.is_available()


def test_inductor_is_imported_where_it_is_needed():
    """A model without generated ops does not wait for it, and a torch whose parts have moved compiles the model."""
    sources = Path(inductor.__file__).parents[2].rglob("*.py")
    eager = re.compile(r"^(?:from|import) .*\btorch_inductor\b", re.MULTILINE)
    assert not [source for source in sources if eager.search(source.read_text())]


def test_a_part_of_inductor_that_has_moved_is_named(monkeypatch):
    monkeypatch.delattr(torch_inductor.DeviceProperties, "create")
    with pytest.raises(UnsupportedOpError, match=r"DeviceProperties has no 'create' in torch .* 2.11 to 2.14"):
        lowered(torch.relu)


def test_a_module_of_inductor_that_has_moved_is_named(monkeypatch):
    monkeypatch.delattr(inductor, "torch_inductor")
    monkeypatch.setitem(sys.modules, "bridge.generate.inductor.torch_inductor", None)
    with pytest.raises(UnsupportedOpError, match=r"torch_inductor.*kernels are generated with torch 2\.11 to 2\.14"):
        lowered(torch.relu)
