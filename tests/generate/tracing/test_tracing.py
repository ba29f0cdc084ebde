"""What a trace makes of an operator's body: launches with their arguments and choices, regions, and refusals."""

import itertools

import pytest
import sympy
import torch
import triton
import triton.language as tl
from traced import instance_of, launches

from bridge.errors import UnsupportedOpError
from bridge.generate.native.canonical import plugin_name
from bridge.generate.tracing.trace import Scalar

F32 = torch.float32
ROWS, WIDTH = (1, 9, 5), (1, 40, 20)


@triton.jit
def _scaled(x, y, n, scale, bias, NEGATE: tl.constexpr = False, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n) * scale
    if bias is not None:
        value += tl.load(bias + i, mask=i < n)
    tl.store(y + i, -value if NEGATE else value, mask=i < n)


def given(launch, configuration=0):
    """Arguments of a launch by name: types of those that are passed, values of those that are compiled in."""
    return {each.name: each.type for each in launch.arguments} | dict(launch.configurations[configuration].constants)


def test_arguments_by_place_by_name_and_by_default_are_told_apart():
    def body(x, bias, negate):
        y = torch.empty_like(x)
        _scaled[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), scale=0.5, bias=bias, NEGATE=negate)
        return y

    (launch,) = launches(instance_of(body, (F32, (ROWS, 16)), None, arguments=(True,)))
    assert given(launch) == {
        "x": "*fp32", "y": "*fp32", "n": "i32", "scale": "fp32", "bias": None, "NEGATE": True, "BLOCK": 64
    }  # fmt: skip
    assert next(each.value for each in launch.arguments if each.name == "scale") == 0.5
    (launch,) = launches(instance_of(body, (F32, (ROWS, 16)), (F32, (16,)), arguments=(False,)))
    assert given(launch)["bias"] == "*fp32" and given(launch)["NEGATE"] is False


def test_a_bool_is_no_integer_and_1_is_compiled_in():
    def body(x, times, flag):
        y = torch.empty_like(x)
        _scaled[(1,)](x, y, times, flag, None)
        return y

    (launch,) = launches(instance_of(body, (F32, (4,)), arguments=(1, True)))
    assert given(launch)["n"] == 1 and given(launch)["scale"] == "i1"
    (launch,) = launches(instance_of(body, (F32, (4,)), arguments=(1 << 40, 2)))
    assert given(launch)["n"] == "i64" and given(launch)["scale"] == "i32"


def test_numbers_that_may_pass_32_bits_have_a_region_of_each_width():
    def body(x):
        y = torch.empty_like(x)
        _scaled[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), 0.5, None)
        return y

    instance = instance_of(body, (F32, ((1, 1 << 20, 64), (1, 1 << 14, 8))))
    rows, width = (each.symbol for each in instance.symbols)
    assert [given(each.steps[0])["n"] for each in instance.regions] == ["i32", "i64"]
    for extent, expected in [(1 << 17, "i64"), ((1 << 17) - 1, "i32"), (1, "i32")]:
        symbols = {rows: extent, width: 1 << 14}
        taken = next(each for each in instance.regions if all(bool(c.subs(symbols)) for c in each.conditions))
        assert given(taken.steps[0])["n"] == expected


def test_a_tuner_gives_a_configuration_each_with_its_grid():
    ways = [triton.Config({"BLOCK": 32}, num_warps=2), triton.Config({"BLOCK": 128}, num_warps=8)]
    tuned = triton.autotune(ways, key=[])

    def body(x):
        y = torch.empty_like(x)
        tuned(_scaled)[lambda meta: (triton.cdiv(x.shape[0], meta["BLOCK"]),)](x, y, x.shape[0], 1.5, None)
        return y

    instance = instance_of(body, (F32, ((1, 1000, 300),)))
    (launch,) = launches(instance)
    (n,) = (each.symbol for each in instance.symbols)
    assert [(c.constants["BLOCK"], c.options["num_warps"]) for c in launch.configurations] == [(32, 2), (128, 8)]
    assert [int(c.grid[0].xreplace({n: 300})) for c in launch.configurations] == [10, 3]


def test_a_heuristic_is_evaluated_in_each_region():
    kernel = triton.heuristics({"NEGATE": lambda args: args["n"] % 4 == 0})(_scaled)

    def body(x):
        y = torch.empty_like(x)
        kernel[(1,)](x, y, x.shape[0], 2.0, None)
        return y

    assert_regions(instance_of(body, (F32, (WIDTH,))), lambda n: n % 4 == 0, "NEGATE")


def assert_regions(instance, expected, constant):
    """Every extent of the profile is in a region whose kernel has the constant that the body gives it there."""
    ranges = [range(each.low, each.high + 1) for each in instance.symbols]
    for extents in itertools.product(*ranges):
        values = dict(zip((each.symbol for each in instance.symbols), extents, strict=True))
        holding = [r for r in instance.regions if all(c.xreplace(values) == True for c in r.conditions)]  # noqa: E712
        assert holding, f"no region has {extents}"
        chosen = next(step for step in holding[0].steps if hasattr(step, "configurations"))
        assert chosen.configurations[0].constants[constant] == expected(*extents), extents


@pytest.mark.parametrize(
    ("block_of", "inputs"),
    [
        (lambda x: triton.next_power_of_2(x.shape[-1]), (ROWS, WIDTH)),
        (lambda x: 128 if x.shape[1] > 17 else 64, (ROWS, WIDTH)),
        (lambda x: 128 if x.shape[0] == 1 else 64, (ROWS, WIDTH)),
        (lambda x: min(triton.next_power_of_2(x.shape[0] * x.shape[1]), 64), (ROWS, WIDTH)),
        (lambda x: 16 * x.shape[0], (ROWS, 16)),
    ],
    ids=["power of two", "a bound", "an extent of 1", "a product", "each extent"],
)
def test_regions_cover_every_extent(block_of, inputs):
    def body(x):
        y = torch.empty_like(x)
        _scaled[(1,)](x, y, x.numel(), 2.0, None, BLOCK=block_of(x))
        return y

    def expected(*extents):
        return block_of(torch.empty(*extents, *inputs[len(extents) :], device="meta"))

    assert_regions(instance_of(body, (F32, inputs)), expected, "BLOCK")


def test_an_extent_that_needs_too_many_versions_is_refused_with_the_profile():
    def body(x):
        y = torch.empty_like(x)
        _scaled[(1,)](x, y, x.numel(), 2.0, None, BLOCK=16 * x.shape[0])
        return y

    with pytest.raises(UnsupportedOpError, match=r"more than 64 versions of its kernels .*axis 0: 1 to 70: narrow it"):
        instance_of(body, (F32, ((1, 70, 5),)))


class Cached(triton.KernelInterface):
    """A wrapper that is none of Triton's own, as packages have for their caches of compiled kernels."""

    def __init__(self, fn):
        self.fn, self.arg_names = fn, fn.arg_names

    def run(self, *args, grid, warmup, **kwargs):
        raise AssertionError("it would look for a compiled kernel")


def test_wrappers_that_nobody_knows_are_passed_over():
    def body(x):
        y = torch.empty_like(x)
        Cached(_scaled)[(1,)](x, y, x.numel(), 2.0, None)
        return y

    (launch,) = launches(instance_of(body, (F32, (4,))))
    assert launch.kernel is _scaled


def hooked(x):
    kernel = triton.autotune([triton.Config({"BLOCK": 64}, pre_hook=lambda args: None)], key=[])(_scaled)
    y = torch.empty_like(x)
    kernel[(1,)](x, y, x.numel(), 2.0, None)
    return y


def textual(x):
    y = torch.empty_like(x)
    _scaled[(1,)](x, y, "many", 2.0, None)
    return y


def forgetful(x):
    y = torch.empty_like(x)
    _scaled[(1,)](x, y, 2.0)
    return y


def complex_valued(x):
    y = torch.empty_like(x, dtype=torch.complex64)
    _scaled[(1,)](x, y, x.numel(), 2.0, None)
    return x


def by_value(x):
    y = torch.empty_like(x)
    _scaled[(1,)](x, y, x.numel(), 2.0, None)
    return y if y.sum().item() > 0 else x


def failing(x):
    y = torch.empty_like(x)
    _scaled[(1,)](x, y, x.numel(), 2.0, None)
    raise KeyError("of the body")


def numbers(x):
    y = torch.empty_like(x)
    _scaled[(1,)](x, y, x.numel(), 2.0, None)
    return y, 3


@triton.jit
def _doubled(x, y, n, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n) * 2
    tl.store(y + i, value, mask=i < n)
    tl.store(x + i, value, mask=i < n)


def writing(x):
    y = torch.empty_like(x)
    _doubled[(1,)](x, y, x.numel())
    return y


def writing_a_copy(x):
    x, y = x.clone(), torch.empty_like(x)
    _doubled[(1,)](x, y, x.numel())
    return x + y


HERE = torch.ones(3)


def foreign(x):
    y = torch.empty_like(x)
    _scaled[(1,)](HERE, y, x.numel(), 2.0, None)
    return y


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (hooked, "the Triton kernel _scaled has a configuration with a pre_hook"),
        (textual, "the kernel's argument n is a str, expected a tensor or a number"),
        (forgetful, "the Triton kernel _scaled is launched with arguments that it does not take: missing a required"),
        (complex_valued, "a kernel takes a tensor of torch.complex64"),
        (by_value, "depends on values"),
        (writing, "its kernel _doubled writes x, which is the operator's argument x0?: have it write a copy"),
        (failing, r"its body fails for inputs \[4\], on fake tensors: KeyError: 'of the body'"),
        (numbers, "it returns int, expected tensors"),
        (foreign, r"a tensor of shape \[3\] that is no argument and that it did not make"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_plugin_cannot_do_is_refused_by_name(body, message):
    with pytest.raises(UnsupportedOpError, match=f"tracing_test::{body.__name__} cannot become a plugin: .*{message}"):
        instance_of(body, (F32, (4,)))


def test_a_copy_of_an_argument_may_be_written():
    assert next(type(step).__name__ for step in instance_of(writing_a_copy, (F32, (4,))).regions[0].steps) == "Copy"


def test_outputs_that_differ_between_regions_are_refused():
    def body(x):
        y = torch.empty_like(x, dtype=torch.float16 if x.shape[0] > 3 else torch.float32)
        _scaled[(1,)](x, y, x.shape[0], 2.0, None)
        return y

    with pytest.raises(
        UnsupportedOpError, match=r"its outputs are torch.float16 \[s0\] for some extents and torch.float32"
    ):
        instance_of(body, (F32, (ROWS,)))


def test_names_stand_for_what_is_computed():
    """The same call has the same name, wherever its example lies; another attribute or profile has another."""

    def body(x, scale):
        y = torch.empty_like(x)
        _scaled[(1,)](x, y, x.numel(), scale, None)
        return y

    name, same, scaled, wider = (
        plugin_name(instance_of(body, (F32, (rows,)), arguments=(scale,)))
        for rows, scale in (((1, 9, 5), 2.0), ((1, 9, 7), 2.0), ((1, 9, 5), 3.0), ((1, 10, 5), 2.0))
    )
    assert name == same and len({name, scaled, wider}) == 3


def test_a_number_that_follows_from_an_extent_stays_an_expression():
    def body(x, count):
        y = torch.empty_like(x)
        _scaled[(triton.cdiv(count, 64),)](x, y, count, 2.0, None)
        return y

    rows = sympy.Symbol("s0", integer=True, nonnegative=True)
    instance = instance_of(body, (F32, (ROWS, 4)), arguments=(Scalar(rows * 4),))
    (launch,) = launches(instance)
    (count,) = (each.value for each in launch.arguments if each.name == "n")
    assert count == 4 * rows
