"""group_norm: PyTorch's results, hard numbers, and its kernels in every plan and layout."""

import pytest
import torch
import torch.nn.functional as F
from plugin_host import Plugin
from samples.normalization.group_norm import ACTIVATIONS, further, group_norm_arguments, random_call
from waiting import check_waits

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.tensorrt.plugins.plugin_object import HWC, HWC8
from bridge.testing import DTYPES, cast, check_cuda, check_export

OP = OPS["group_norm"]
DIRECT, PASSES, OWN = 0, 1, -1  # tactics
X = torch.randn(2, 6, 5, 7)


def in_torch(x, weight, bias, groups, eps=1e-5, activation="none"):
    return (getattr(F, activation) if activation != "none" else lambda y: y)(F.group_norm(x, groups, weight, bias, eps))


def test_is_pytorchs():
    for seed in range(40):
        args, kwargs = random_call(seed)
        torch.testing.assert_close(bridge.group_norm(*args, **kwargs), in_torch(*args, **kwargs), rtol=1e-4, atol=1e-5)


def test_as_many_groups_as_channels_is_instance_norm():
    x, weight, bias = group_norm_arguments((2, 5, 9, 7))
    expected = F.instance_norm(x, None, None, weight, bias)
    torch.testing.assert_close(bridge.group_norm(x, weight, bias, 5), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_may_be_float32_beside_16_bits(dtype):
    x, weight, bias = group_norm_arguments((2, 8, 5, 7))
    found = bridge.group_norm(x.to(dtype), weight, bias, 4)
    assert found.dtype == dtype
    exact = F.group_norm(x.to(dtype).double(), 4, weight.double(), bias.double())
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def hard(kind, dtype):
    """Values whose squares overflow in 16 bits, or whose mean is large beside what they differ by."""
    x, weight, bias = group_norm_arguments((2, 64, 16, 24), seed=3)
    mean, spread = {"large": (0.0, 8000.0), "far": (2000.0, 4.0), "tiny": (0.0, 1e-3)}[kind]
    return [(x * spread + mean).to(dtype), weight, bias]


@pytest.mark.parametrize("kind", ["large", "far", "tiny"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_values(kind, dtype):
    x, weight, bias = hard(kind, dtype)
    exact = F.group_norm(x.double(), 32, weight.double(), bias.double())
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-3}
    torch.testing.assert_close(bridge.group_norm(x, weight, bias).double(), exact, **tolerance)


def test_a_group_with_what_is_not_finite_is_nan():
    x = X.clone()
    x[0, 1, 2, 3], x[1, 5, 0, 0] = torch.nan, torch.inf
    found = bridge.group_norm(x, groups=3, activation="relu").isnan().reshape(2, 3, -1)
    assert found.all(2).tolist() == found.any(2).tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ([X[0, 0, 0]], {}, r"x must have 2 dimensions or more, got shape \(7,\)"),
        ([X], {"groups": 4}, "x has 6 channels, expected a multiple of the 4 groups"),
        ([X], {"groups": 0}, "groups is 0, expected 1 or more"),
        ([X[:, :0]], {"groups": 1}, "x has 0 channels"),
        ([X], {"groups": 3, "eps": -1.0}, "eps is -1.0, expected a number of 0 or more"),
        ([X], {"groups": 3, "eps": float("nan")}, "eps is nan"),
        ([X], {"groups": 3, "activation": "swish"}, 'activation is "swish", expected none, silu, relu or gelu'),
        ([X, torch.ones(5)], {"groups": 3}, r"weight has shape \(5,\), expected \(6,\)"),
        ([X, None, torch.ones(6, 1)], {"groups": 3}, r"bias has shape \(6, 1\), expected \(6,\)"),
        ([X.half(), torch.ones(6).bfloat16()], {"groups": 3}, "weight is torch.bfloat16"),
    ],
)
def test_bad_input(args, kwargs, text):
    with pytest.raises(OpInputError, match=text):
        bridge.group_norm(*args, **kwargs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_exports_with_dynamic_extents(activation):
    batch, height, width = (torch.export.Dim(name, min=1, max=64) for name in ("batch", "height", "width"))
    check_export(
        OP,
        lambda n: group_norm_arguments((n, 8, n + 2, n + 5)),
        [{0: batch, 2: height, 3: width}, None, None],
        groups=4,
        activation=activation,
    )


# The plugin's formats


def takes(formats, channels=16, dtype=torch.float16):
    plugin = Plugin(Plugin.create("group_norm", {"groups": 4}))
    shapes = [(2, channels, 6, 7), (channels,), (channels,), (2, channels, 6, 7)]
    dtypes = [dtype] * 4
    return all(plugin.supports(i, dtypes, 3, formats, shapes) for i in range(4))


def test_the_plugin_returns_the_layout_that_it_is_given():
    assert takes([HWC8, 0, 0, HWC8]) and not takes([0, 0, 0, 0])  # an engine has one format
    assert takes([0, 0, 0, 0], 12) and takes([0, 0, 0, 0], 12, torch.float32)
    assert not takes([HWC8, 0, 0, 0]) and not takes([0, 0, 0, HWC8]) and not takes([HWC, 0, 0, HWC], 12, torch.float32)
    assert not takes([HWC8, 0, 0, HWC8], 12) and not takes([HWC8, HWC8, 0, HWC8])


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("number", [DIRECT, PASSES, OWN])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("args", "kwargs"), [pytest.param(*rest, id=label) for label, *rest in further()])
def test_cuda_plans(args, kwargs, dtype, number):
    with libraries.tactic("group_norm", number):
        check_cuda(OP, dtype, *args, **kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize("number", [DIRECT, PASSES, OWN])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["large", "far", "tiny"])
def test_cuda_hard_values(kind, dtype, number):
    given = hard(kind, dtype)
    exact = OP.run(*cast(given, torch.float64))
    with libraries.tactic("group_norm", number):
        found = bridge.group_norm(*cast(given, device="cuda")).double().cpu()
    torch.testing.assert_close(found, exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("number", [DIRECT, PASSES, OWN])
def test_cuda_keeps_what_is_not_finite_in_its_group(number):
    x = torch.randn(2, 64, 32, 32, device="cuda", dtype=torch.float16)
    x[0, 3, 2, 1], x[1, 60, 31, 31] = torch.nan, torch.inf
    with libraries.tactic("group_norm", number):
        found = bridge.group_norm(x, activation="silu").isnan().reshape(2, 32, -1)
    wrong = torch.zeros(2, 32, dtype=torch.bool, device="cuda")
    wrong[0, 1] = wrong[1, 30] = True
    assert torch.equal(found.all(2), wrong) and torch.equal(found.any(2), wrong)


# Groups of a block, of clusters of two and of eight, and of two launches, on 132 multiprocessors of capability 9.0.
WAITING = {"block": (4, 32, 8, 8), "two": (2, 320, 64, 64), "eight": (1, 512, 64, 64), "passes": (1, 64, 256, 320)}


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("kind", WAITING)
def test_cuda_waits_for_what_comes_before(kind, captured):
    x, weight, bias = cast(group_norm_arguments(WAITING[kind]), torch.half, "cuda")
    check_waits(lambda x: bridge.group_norm(x, weight, bias, 32, activation="silu"), x, captured)


def run_in_channels_last(args, kwargs, dtype, number):
    """What the plugin makes of x with channels last, which the result has too."""
    plugin = Plugin(Plugin.create("group_norm", kwargs))
    x, *rest = cast(args, dtype, device="cuda")
    given = [x.to(memory_format=torch.channels_last), *[tensor for tensor in rest if tensor is not None]]
    result = torch.full_like(given[0], float("nan"))
    format = HWC if dtype == torch.float32 else HWC8
    formats = [format, *[0] * (len(given) - 1), format]
    assert plugin.configure(given, [result], formats) == 0
    assert plugin.set_tactic(number + 2 if number >= 0 else 1) == 0
    assert plugin.shape_change(given, [result], formats=formats) == 0
    scratch = torch.empty(plugin.workspace(given, [result], formats), dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    assert plugin.enqueue(given, [result], stream, scratch, formats) == 0
    return result.cpu()


CHANNELS_LAST = [
    ((2, 64, 9, 11), 32),
    ((2, 320, 32, 32), 32),
    ((1, 128, 200, 304), 32),
    ((3, 40, 5, 1), 5),
    ((1, 2560, 8, 8), 32),
    ((2, 4096, 3, 5), 32),
    ((1, 4104, 4, 3), 8),  # more channels than the kernel takes
    ((0, 64, 4, 4), 32),
]


@pytest.mark.gpu
@pytest.mark.parametrize("number", [DIRECT, OWN])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "groups"), CHANNELS_LAST)
def test_the_plugin_runs_in_channels_last(shape, groups, dtype, number):
    args = cast(group_norm_arguments(shape, seed=1), dtype)
    kwargs = {"groups": groups, "activation": "silu"}
    expected = OP.run(*args, **kwargs)
    found = run_in_channels_last(args, kwargs, dtype, number)
    torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [3, 10, 33, 2561])
def test_the_plugin_runs_in_channels_last_with_odd_channels(channels):
    args = group_norm_arguments((2, channels, 7, 9), seed=2)
    expected = OP.run(*args, groups=1)
    found = run_in_channels_last(args, {"groups": 1}, torch.float32, OWN)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
