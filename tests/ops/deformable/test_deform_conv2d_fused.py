import math

import pytest
import torch
import torch.nn.functional as F
from plugin_host import Plugin
from refusals import check_refused
from samples.deform_conv2d_fused import deform_conv2d_fused_arguments, further, random_call

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.tensorrt.plugins.plugin_object import HWC, HWC8
from bridge.testing import cast, check_cuda, check_export
from bridge.testing.kernels import check_cuda_call

OP = OPS["deform_conv2d_fused"]
KERNELS = {torch.float32: 15, torch.float16: 13, torch.bfloat16: 13}  # those of deform_conv2d
# Two TF32 numbers hold 22 bits of float32's 24: up to 2.5 times PyTorch's error in float32 was seen.
TIMES = {torch.float32: 3, torch.float16: 2, torch.bfloat16: 2}
EVERY_KERNEL = [pytest.param(dtype, number, id=f"{dtype} {number}") for dtype in KERNELS for number in range(10)]


def composed(x, prediction, weight, bias=None, modulated=True, activation="none", negative_slope=0.01, **geometry):
    """The same by the operators that it takes the place of."""
    offset, mask = prediction, None
    if modulated:
        first, second, logits = prediction.chunk(3, 1)
        offset, mask = torch.cat((first, second), 1), logits.sigmoid()
    y = bridge.deform_conv2d(x, offset, weight, bias, mask, **geometry)
    if activation == "relu":
        return F.relu(y)
    return F.leaky_relu(y, negative_slope) if activation == "leaky_relu" else y


@pytest.mark.parametrize("seed", range(20))
def test_is_the_operators_one_by_one(seed):
    args, kwargs = random_call(seed)
    args = cast(args, torch.float64)
    torch.testing.assert_close(bridge.deform_conv2d_fused(*args, **kwargs), composed(*args, **kwargs))


def test_what_no_attribute_asks_for_is_the_plain_op():
    args = deform_conv2d_fused_arguments(1, 4, (7, 6), 3, offset_groups=2, mask=False)
    assert torch.equal(bridge.deform_conv2d_fused(*args, modulated=False), bridge.deform_conv2d(*args))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_everything_is_rounded_once(dtype):
    args = cast(deform_conv2d_fused_arguments(1, 4, (7, 6), 3), dtype)
    for activation in ("none", "relu", "leaky_relu"):
        exact = bridge.deform_conv2d_fused(*cast(args, torch.float32), activation=activation)
        assert torch.equal(bridge.deform_conv2d_fused(*args, activation=activation), exact.to(dtype))


def special():
    """A call of 1 × 1 with weights of 1, whose results are x and its position's mask."""
    x = torch.tensor([[[[math.nan, -math.inf, math.inf, -2.0, 3.0, 1.0, 1.0, 1.0]]]])
    prediction = torch.zeros(1, 3, 1, 8)
    prediction[0, 2] = 100.0
    prediction[0, 2, 0, 5:] = torch.tensor([math.nan, -math.inf, 0.0])
    return [x, prediction, torch.ones(1, 1, 1, 1)]


SPECIAL = {
    "none": [math.nan, -math.inf, math.inf, -2.0, 3.0, math.nan, 0.0, 0.5],
    "relu": [math.nan, 0.0, math.inf, 0.0, 3.0, math.nan, 0.0, 0.5],
    "leaky_relu": [math.nan, -math.inf, math.inf, -0.5, 3.0, math.nan, 0.0, 0.5],
}


@pytest.mark.parametrize("activation", SPECIAL)
def test_what_is_not_finite_shows(activation):
    # Without the neighbour of the last column: beside it lies nothing.
    y = [
        bridge.deform_conv2d_fused(x, prediction, special()[2], activation=activation, negative_slope=0.25).item()
        for x, prediction in zip(special()[0].split(1, 3), special()[1].split(1, 3), strict=True)
    ]
    torch.testing.assert_close(torch.tensor(y), torch.tensor(SPECIAL[activation]), equal_nan=True)


def test_a_slope_beyond_float32_is_an_infinity():
    x, prediction, weight = special()
    y = bridge.deform_conv2d_fused(
        -torch.ones_like(x), prediction, weight, activation="leaky_relu", negative_slope=1e300
    )
    assert y[0, 0, 0, 0] == -math.inf


def _args(**changes):
    args = deform_conv2d_fused_arguments(2, 6, (9, 8), 4, groups=2, offset_groups=3, padding=(1, 1))
    return {**dict(zip(("x", "prediction", "weight", "bias"), args, strict=True)), "padding": 1, **changes}


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ("rank", _args(x=_zeros(6, 9, 8)), "deform_conv2d_fused: x, prediction and weight must have 4 dimensions"),
    ("channels", _args(x=_zeros(2, 7, 9, 8)), "x has 7 channels, not a multiple of the weight's 3"),
    ("groups", _args(weight=_zeros(5, 3, 3, 3), bias=_zeros(5)), "5 output channels do not divide into 2 groups"),
    ("offsets alone", _args(prediction=_zeros(2, 18, 9, 8)), "prediction has 18 channels, expected a multiple of 3 "),
    ("logits", _args(modulated=False), "prediction has 81 channels, expected a multiple of 2 .* = 18"),
    ("none", _args(prediction=_zeros(2, 0, 9, 8)), "prediction has 0 channels"),
    ("offset groups", _args(prediction=_zeros(2, 108, 9, 8)), "x's 6 channels do not divide into 4 offset groups"),
    ("extent", _args(prediction=_zeros(2, 81, 9, 7)), r"prediction has shape .2, 81, 9, 7., expected .2, 81, 9, 8."),
    ("batch", _args(prediction=_zeros(1, 81, 9, 8)), r"prediction has shape .1, 81, 9, 8., expected .2, 81, 9, 8."),
    ("bias", _args(bias=_zeros(3)), r"bias has shape .3,?., expected .4,?."),
    ("stride", _args(stride=0), "deform_conv2d_fused: stride is 0, expected 1 or more"),
    ("kernel", _args(padding=0, dilation=5), "the kernel 3 x 3 with dilation 5 does not fit the padded input"),
    ("activation", _args(activation="gelu"), 'activation is "gelu", expected none, relu or leaky_relu'),
    ("slope", _args(negative_slope=math.inf), "negative_slope is inf, expected a finite number"),
]
each_bad = pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])


@each_bad
def test_bad_input(args, text):
    check_refused(OP, text, args)


@pytest.mark.parametrize("name", ["prediction", "weight", "bias"])
def test_bad_dtypes(name):
    args = _args()
    with pytest.raises(OpInputError, match=f"{name} is torch.float16, expected torch.float32"):
        bridge.deform_conv2d_fused(**{**args, name: args[name].half()})


def test_export():
    batch = torch.export.Dim("batch", min=1, max=16)
    height, width = torch.export.Dim("height", min=4, max=64), torch.export.Dim("width", min=4, max=64)
    plane = {0: batch, 2: height, 3: width}
    check_export(
        OP,
        lambda n: deform_conv2d_fused_arguments(n, 4, (n + 4, n + 6), 3, padding=(1, 1)),
        [plane, plane, None, None],
        padding=[1, 1],
        activation="relu",
    )


def test_the_plugin_asks_for_as_much_scratch_memory_as_that_of_the_plain_op():
    x, prediction, weight, bias = cast(deform_conv2d_fused_arguments(2, 64, (9, 10), 64, padding=(1, 1)), torch.half)
    offset, mask, result = prediction[:, :18].clone(), prediction[:, 18:].clone(), torch.empty(2, 64, 9, 10).half()
    sizes = []
    for name, args in (
        (OP.local_name, [x, prediction, weight, bias]),
        ("deform_conv2d", [x, offset, weight, bias, mask]),
    ):
        plugin = Plugin(Plugin.create(name, {"padding": [1, 1]}))
        assert plugin.configure(args, [result]) == 0
        sizes.append(plugin.workspace(args, [result]))
    assert sizes[0] == sizes[1] > 0


def test_results_of_whole_vectors_of_channels_are_built_with_channels_last():
    plugin = Plugin(Plugin.create(OP.local_name, {}))

    def taken(dtype, channels, format):
        shapes = [(2, 6, 7, 8), (2, 27, 5, 6), (channels, 6, 3, 3), (channels,), (2, channels, 5, 6)]
        return plugin.supports(4, [dtype] * 5, 4, format, shapes)

    for dtype, channels, formats in (
        (torch.float16, 16, {HWC8}),
        (torch.float16, 12, {0}),
        (torch.bfloat16, 16, {0}),
        (torch.float32, 16, {0}),
    ):
        assert {format for format in (0, HWC8, HWC) if taken(dtype, channels, format)} == formats


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", KERNELS, ids=str)
@pytest.mark.parametrize(("args", "kwargs"), [pytest.param(*rest, id=label) for label, *rest in further()])
def test_every_kernel_is_the_reference(args, kwargs, dtype):
    for number in range(-1, KERNELS[dtype] + 1):
        with libraries.tactic(OP.local_name, number):
            check_cuda_call(OP, cast(args, dtype), kwargs, times=TIMES[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", KERNELS, ids=str)
@pytest.mark.parametrize(("channels", "offset_groups"), [(192, 1), (64, 16)], ids=["wide", "narrow"])
@pytest.mark.parametrize("activation", SPECIAL)
def test_blocks_that_share_sums_apply_the_activation_once(activation, channels, offset_groups, dtype):
    args = deform_conv2d_fused_arguments(5, channels, (7, 7), 320, padding=(1, 1), offset_groups=offset_groups)
    for number in range(-1, KERNELS[dtype]):
        with libraries.tactic(OP.local_name, number):
            check_cuda(OP, dtype, *args, padding=[1, 1], activation=activation, negative_slope=-0.5)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), EVERY_KERNEL)
@pytest.mark.parametrize("offset_groups", [1, 16])
def test_infinite_logits_are_masks_of_0_and_1(offset_groups, dtype, number):
    args = deform_conv2d_fused_arguments(2, 64, (9, 9), 64, offset_groups=offset_groups, padding=(1, 1))
    x, prediction, weight, bias = cast(args, dtype, "cuda")
    logits, mask = prediction[:, 18 * offset_groups :], torch.ones(2, 9 * offset_groups, 9, 9, device="cuda")
    logits.fill_(math.inf), logits[:, ::2].fill_(-math.inf), mask[:, ::2].zero_()
    offset = prediction[:, : 18 * offset_groups].contiguous()
    with libraries.tactic(OP.local_name, number):
        y = bridge.deform_conv2d_fused(x, prediction, weight, bias, padding=1)
    with libraries.tactic("deform_conv2d", number):
        expected = bridge.deform_conv2d(x, offset, weight, bias, mask.to(dtype), padding=1)
    near = 2 * torch.finfo(dtype).eps  # of kernels that are compiled apart
    torch.testing.assert_close(y, expected, rtol=near, atol=near * expected.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("activation", SPECIAL)
def test_cuda_what_is_not_finite_shows(activation):
    x, prediction, weight = special()
    images = [tensor.permute(3, 1, 2, 0) for tensor in (x, prediction)]  # a position each: none has neighbours
    y = bridge.deform_conv2d_fused(*cast([*images, weight], device="cuda"), activation=activation, negative_slope=0.25)
    torch.testing.assert_close(y.cpu().flatten(), torch.tensor(SPECIAL[activation]), equal_nan=True)


def by_every_tactic(args, kwargs, dtype, format):
    """What the plugin writes, tactic by tactic; format: of x and of the result."""
    x, *rest = cast(args, dtype, "cuda")
    expected = OP.run(*args, **kwargs)
    last = {"memory_format": torch.channels_last} if format else {}
    given, actual = (
        [x.contiguous(**last), *rest],
        torch.empty_like(expected, dtype=dtype, device="cuda").contiguous(**last),
    )
    plugin = Plugin(Plugin.create(OP.local_name, {**kwargs, "tensors": "x,prediction,weight=,bias"}))
    formats = [format, 0, 0, 0, format]
    assert plugin.configure(given, [actual], formats) == 0
    plugin = plugin.attach()
    assert plugin.shape_change(given, [actual], formats=formats) == 0
    scratch = torch.empty(plugin.workspace(given, [actual], formats), dtype=torch.uint8, device="cuda")
    for tactic in plugin.tactics():
        actual.fill_(math.nan)
        assert plugin.set_tactic(tactic) == 0 and plugin.shape_change(given, [actual], formats=formats) == 0
        assert plugin.enqueue(given, [actual], torch.cuda.current_stream().cuda_stream, scratch, formats) == 0
        yield actual.cpu().float(), expected


PLUGINS = {
    "tiles": ((2, 64, (9, 10), 64), {"padding": [1, 1]}),
    "a part of a tile": ((1, 64, (9, 10), 40), {"padding": [1, 1]}),
    "shared sums": ((1, 256, (7, 7), 64), {"padding": [1, 1]}),
    "groups": ((3, 64, (8, 9), 72), {"padding": [1, 1], "groups": 2}),
    "groups of 20": ((2, 64, (8, 8), 40), {"padding": [1, 1], "groups": 2}),
    "narrow": ((2, 64, (11, 20), 64), {"padding": [1, 1], "offset_groups": 16}),
    "columns": ((2, 256, (14, 14), 320), {"padding": [1, 1]}),
    "columns, a part of a tile": ((1, 256, (5, 7), 136), {"padding": [1, 1]}),
    "columns, groups of 132": ((3, 512, (6, 9), 264), {"padding": [1, 1], "groups": 2}),
    "columns, groups of 129": ((1, 2048, (3, 4), 1032), {"padding": [1, 1], "groups": 8}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("sizes", "options"), [pytest.param(*sizes, id=label) for label, sizes in PLUGINS.items()])
def test_every_tactic_of_the_plugin_is_the_reference(sizes, options, dtype, last):
    args = cast(cast(deform_conv2d_fused_arguments(*sizes, **options), torch.half), torch.float32)
    kwargs = {"padding": [1, 1], "activation": "relu"}
    format = 0 if not last else HWC if dtype == torch.float32 else HWC8
    near = 1e-4 if dtype == torch.float32 else 1e-2
    results = list(by_every_tactic(args, kwargs, dtype, format))
    assert len(results) > 3
    for found, expected in results:
        torch.testing.assert_close(found, expected, rtol=near, atol=near * expected.abs().max().item())


@pytest.mark.gpu
@each_bad
def test_cuda_bad_input(args, text):
    given = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.deform_conv2d_fused(**given)
