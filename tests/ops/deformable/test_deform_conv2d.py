import math

import pytest
import torch
from samples.deform_conv2d import deform_conv2d_arguments, random_call

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import cast, check_export


# torchvision takes no empty batch.
@pytest.mark.parametrize("seed", [seed for seed in range(20) if random_call(seed)[0][0].shape[0]])
def test_is_torchvision(seed):
    ops = pytest.importorskip("torchvision.ops", reason="needs torchvision")
    args, kwargs = random_call(seed)
    x, offset, weight, bias, mask = cast(args, torch.float64)
    expected = ops.deform_conv2d(x, offset, weight, bias, **kwargs, mask=mask)
    torch.testing.assert_close(bridge.deform_conv2d(x, offset, weight, bias, mask, **kwargs), expected)


def test_zero_offsets_are_a_convolution():
    x, offset, weight, bias, _ = deform_conv2d_arguments(
        2, 6, (9, 8), 4, groups=2, stride=(2, 1), padding=(1, 2), dilation=(1, 2)
    )
    kwargs = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    actual = bridge.deform_conv2d(x, torch.zeros_like(offset), weight, bias, **kwargs)
    torch.testing.assert_close(actual, torch.nn.functional.conv2d(x, weight, bias, **kwargs, groups=2))


def test_a_number_stands_for_both_axes():
    args = deform_conv2d_arguments(1, 2, (7, 7), 2, stride=(2, 2), padding=(1, 1), dilation=(2, 2))
    assert torch.equal(bridge.deform_conv2d(*args, 2, 1, 2), bridge.deform_conv2d(*args, (2, 2), [1, 1], (2, 2)))


def test_samples_outside_count_as_zero_and_infinities_stay_where_they_are():
    x, offset, weight, _, _ = deform_conv2d_arguments(1, 1, (4, 4), 1, kernel=(1, 1), bias=False, mask=False)
    weight.fill_(1.0)
    x[0, 0, 0, 0] = math.inf
    offset.fill_(0.0)
    offset[0, 0, 3, 3] = 100.0
    offset[0, 0, 2, 2] = -2.5  # half a pixel above the map: half of it counts
    y = bridge.deform_conv2d(x, offset, weight)
    assert y[0, 0, 3, 3] == 0
    torch.testing.assert_close(y[0, 0, 2, 2], 0.5 * x[0, 0, 0, 2])
    assert y[0, 0, 0, 0] == math.inf and y.isinf().sum() == 1 and not y.isnan().any()


def test_nan_offsets_show():
    args = deform_conv2d_arguments(1, 2, (5, 5), 3)
    args[1][0, 4, 1, 2] = math.nan
    y = bridge.deform_conv2d(*args)
    assert y[0, :, 1, 2].isnan().all() and y.isnan().sum() == 3


def _args(**changes):
    names = ("x", "offset", "weight", "bias", "mask")
    named = dict(
        zip(names, deform_conv2d_arguments(2, 6, (9, 8), 4, groups=2, offset_groups=3, padding=(1, 1)), strict=True)
    )
    return {**named, "padding": 1, **changes}


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ("rank", _args(x=_zeros(6, 9, 8)), "x, offset and weight must have 4 dimensions"),
    ("channels", _args(x=_zeros(2, 7, 9, 8)), "x has 7 channels, not a multiple of the weight's 3"),
    ("no channels", _args(x=_zeros(2, 0, 9, 8), weight=_zeros(4, 0, 3, 3)), "not a multiple of the weight's 0"),
    ("groups", _args(weight=_zeros(5, 3, 3, 3), bias=_zeros(5)), "5 output channels do not divide into 2 groups"),
    ("offset channels", _args(offset=_zeros(2, 55, 9, 8)), "offset has 55 channels, expected a multiple of .* = 18"),
    ("no offset", _args(offset=_zeros(2, 0, 9, 8)), "offset has 0 channels"),
    ("offset groups", _args(offset=_zeros(2, 72, 9, 8)), "x's 6 channels do not divide into 4 offset groups"),
    ("offset extent", _args(offset=_zeros(2, 54, 9, 7)), r"offset has shape .2, 54, 9, 7., expected .2, 54, 9, 8."),
    ("offset batch", _args(offset=_zeros(1, 54, 9, 8)), r"offset has shape .1, 54, 9, 8., expected .2, 54, 9, 8."),
    ("mask extent", _args(mask=_zeros(2, 27, 8, 8)), r"mask has shape .2, 27, 8, 8., expected .2, 27, 9, 8."),
    ("mask channels", _args(mask=_zeros(2, 9, 9, 8)), r"mask has shape .2, 9, 9, 8., expected .2, 27, 9, 8."),
    ("bias", _args(bias=_zeros(3)), r"bias has shape .3,?., expected .4,?."),
    ("stride", _args(stride=0), "stride is 0, expected 1 or more"),
    ("padding", _args(padding=(1, -1)), "padding is -1, expected 0 or more"),
    ("dilation", _args(dilation=(0, 1)), "dilation is 0, expected 1 or more"),
    ("kernel", _args(padding=0, dilation=5), "the kernel 3 x 3 with dilation 5 does not fit the padded input"),
]


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    with pytest.raises(OpInputError, match=text):
        bridge.deform_conv2d(**args)
    tensors, attributes = OPS["deform_conv2d"].bind((), args)
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(
            OPS["deform_conv2d"], [None if t is None else tuple(t.shape) for t in tensors], attributes
        )


@pytest.mark.parametrize("name", ["offset", "weight", "bias", "mask"])
def test_bad_dtypes(name):
    args = _args()
    with pytest.raises(OpInputError, match=f"{name} is torch.float16, expected torch.float32"):
        bridge.deform_conv2d(**{**args, name: args[name].half()})
    with pytest.raises(OpInputError, match=r"x is torch.int64, expected torch.float32"):
        bridge.deform_conv2d(**{**args, "x": args["x"].long()})


def test_export():
    batch = torch.export.Dim("batch", min=1, max=16)
    height, width = torch.export.Dim("height", min=4, max=64), torch.export.Dim("width", min=4, max=64)
    plane = {0: batch, 2: height, 3: width}
    check_export(
        OPS["deform_conv2d"],
        lambda n: deform_conv2d_arguments(n, 4, (n + 4, n + 6), 3, padding=(1, 1)),
        [plane, plane, None, None, plane],
        padding=[1, 1],
    )


@pytest.mark.gpu
def test_cuda_nan_and_infinity():
    x, offset, weight, bias, mask = deform_conv2d_arguments(1, 2, (5, 5), 3)
    x[0, 0, 0, 0] = math.inf
    offset[0, 4, 1, 2] = math.nan
    offset[0, 2, 0, 0] = math.inf  # outside the map: zero
    mask[0, 3, 2, 2] = math.nan
    mask[0, 0, 0, 1] = math.inf
    given = [x, offset, weight, bias, mask]
    actual = bridge.deform_conv2d(*(t.cuda() for t in given)).cpu()
    torch.testing.assert_close(actual, bridge.deform_conv2d(*given), equal_nan=True)


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(args, text):
    given = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.deform_conv2d(**given)


def test_tf32_changes_nothing_on_cpu():
    args = deform_conv2d_arguments(1, 4, (5, 6), 3)
    assert torch.equal(bridge.deform_conv2d(*args, allow_tf32=True), bridge.deform_conv2d(*args))
