"""The CUDA kernels of deform_conv2d, one by one, and its plugin: which kernel it takes, what it keeps."""

import ctypes
import math

import pytest
import torch
from plugin_host import Plugin
from samples.deform_conv2d import deform_conv2d_arguments, further

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.testing import cast, check_cuda, poisoned
from bridge.testing.kernels import check_cuda_call

# Kernels: the direct one, and those whose tiles fit; a number that does not fit leaves the choice to the op.
KERNELS = {torch.float32: 15, torch.float16: 14, torch.bfloat16: 14}
COLUMN_KERNELS = range(10, 13)  # of 16 bits, those in two passes, which do not take few channels
TF32_KERNELS = (*range(3, 9), 12, 13)  # of float32's, those that round
# Two TF32 numbers hold 22 bits of float32's 24: up to 2.5 times PyTorch's error in float32 was seen.
TIMES = {torch.float32: 3, torch.float16: 2, torch.bfloat16: 2}
EVERY_KERNEL = [
    pytest.param(dtype, number, id=f"{dtype} {number}")
    for dtype in (torch.float32, torch.float16)
    for number in range(KERNELS[dtype])
    if dtype == torch.float32 or number not in COLUMN_KERNELS
]


def by_kernel(number, *args, **kwargs):
    """A call by that kernel, with rounding to TF32 allowed where it rounds."""
    rounds = args[0].dtype == torch.float32 and number in TF32_KERNELS
    with libraries.tactic("deform_conv2d", number):
        return bridge.deform_conv2d(*args, **kwargs, allow_tf32=rounds)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("args", "kwargs"), [pytest.param(*rest, id=label) for label, *rest in further()])
def test_every_kernel_is_the_reference(args, kwargs, dtype):
    for number in range(-1, KERNELS[dtype] + 1):
        with libraries.tactic("deform_conv2d", number):
            check_cuda_call(OPS["deform_conv2d"], cast(args, dtype), kwargs, times=TIMES[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), EVERY_KERNEL)
def test_infinities_stay_in_their_group(dtype, number):
    args = deform_conv2d_arguments(1, 64, (8, 8), 64, groups=2, padding=(1, 1), mask=False)
    x, offset, weight, bias, _ = cast(args, dtype, "cuda")
    x[:, 32:] = math.inf
    offset[:, :, 3, 4] = 1000.0  # nothing there but zeros
    y = by_kernel(number, x, offset, weight, bias, padding=1)
    assert y[:, :32].isfinite().all() and not y[:, 32:].isfinite().all()
    torch.testing.assert_close(y[0, :, 3, 4], bias)


def just_outside():
    """Offsets [2, height, width] that lead a tap of 1 × 1 out of a map of 7 × 6, some by a pixel exactly."""
    rows, columns = torch.arange(7.0)[:, None].expand(7, 6), torch.arange(6.0).expand(7, 6)
    inside = torch.zeros(7, 6)
    for axis, (position, extent) in enumerate(((rows, 7), (columns, 6))):
        for at in (-1.0, -1.5, float(extent), extent + 0.5, -1000.0, 1000.0, -math.inf, math.inf):
            beside = [inside, inside]
            beside[axis] = at - position
            yield torch.stack(beside)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [24, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_infinities_beside_a_sample_that_lies_outside_leave_it_zero(dtype, channels):
    groups = {24: 6, 64: 1}[channels]
    args = deform_conv2d_arguments(1, channels, (7, 6), 16, kernel=(1, 1), offset_groups=groups, mask=False)
    x, offset, weight, bias, _ = cast(args, dtype, "cuda")
    x.fill_(math.inf)
    expected = bias[None, :, None, None].expand(1, 16, 7, 6)
    for offsets in just_outside():
        offset.copy_(offsets.repeat(groups, 1, 1))
        for number in range(-1, KERNELS[dtype]):
            assert torch.equal(by_kernel(number, x, offset, weight, bias), expected), (number, offsets[:, 0, 0])


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), EVERY_KERNEL)
@pytest.mark.parametrize("offset_groups", [1, 16])
def test_a_nan_offset_shows_in_its_position_alone(offset_groups, dtype, number):
    args = deform_conv2d_arguments(2, 64, (9, 9), 64, offset_groups=offset_groups, padding=(1, 1))
    x, offset, weight, bias, mask = cast(args, dtype, "cuda")
    offset[1, 4, 1, 2] = math.nan
    y = by_kernel(number, x, offset, weight, bias, mask, padding=1)
    assert y[1, :, 1, 2].isnan().all() and y.isnan().sum() == 64


def tensor_core_arguments(batch=2):
    """Arguments that fill tiles, and an empty result."""
    args = deform_conv2d_arguments(batch, 64, (9, 10), 64, padding=(1, 1))
    return [t.half() for t in args], torch.empty(batch, 64, 9, 10, dtype=torch.half)


def test_the_plugins_tactics_are_timed_under_its_attributes():
    plugins = [Plugin(Plugin.create("deform_conv2d", {"padding": padding})) for padding in ([1, 1], [1, 1], [1, 2])]
    args, result = tensor_core_arguments()
    assert plugins[0].timing_cache_id() is None
    for plugin in plugins[:2]:
        assert plugin.configure(args, [result]) == 0
    wide = [*args[:1], torch.zeros(2, 18, 9, 12).half(), *args[2:4], torch.zeros(2, 9, 9, 12).half()]
    assert plugins[2].configure(wide, [torch.empty(2, 64, 9, 12).half()]) == 0
    ids = [plugin.timing_cache_id() for plugin in plugins]
    assert ids[0] == ids[1] == plugins[0].clone().timing_cache_id() != ids[2] and "deform_conv2d" in ids[0]
    if not torch.cuda.is_available():
        assert plugins[0].tactics() == []
    assert plugins[0].set_tactic(0) == 0


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "rounds"), [(torch.float16, False), (torch.float32, False), (torch.float32, True)], ids=str
)
def test_every_tactic_of_the_plugin_is_the_reference(dtype, rounds):
    args, result = tensor_core_arguments()
    expected = bridge.deform_conv2d(*(t.float() for t in args), padding=1)
    given, actual = [t.to("cuda", dtype) for t in args], result.to("cuda", dtype)
    plugin = Plugin(Plugin.create("deform_conv2d", {"padding": [1, 1], "allow_tf32": rounds}))
    assert plugin.configure(given, [actual]) == 0 and plugin.shape_change(given, [actual]) == 0
    scratch = torch.empty(plugin.workspace(given, [actual]), dtype=torch.uint8, device="cuda")
    tactics = plugin.tactics()
    assert len(tactics) > 3 and min(tactics) > 0
    if torch.cuda.get_device_capability() == (9, 0):  # which has every kernel
        left_out = COLUMN_KERNELS if dtype != torch.float32 else () if rounds else TF32_KERNELS
        asked = [number for number in range(KERNELS[dtype]) if number not in left_out]
        assert tactics == [1, *(number + 2 for number in asked)]
    for tactic in [0, *tactics]:
        actual.fill_(math.nan)
        assert plugin.set_tactic(tactic) == 0
        stream = torch.cuda.current_stream().cuda_stream
        assert plugin.enqueue(given, [actual], stream, scratch) == 0
        near = 1e-4 if dtype == torch.float32 and not rounds else 1e-2
        torch.testing.assert_close(actual.cpu().float(), expected, rtol=near, atol=near)


def tactic_in_force(op):
    """What calls of an op through PyTorch use; asking sets what was."""
    library, before = ctypes.CDLL(str(OPS["deform_conv2d"].library.find("torch"))), ctypes.c_int32()
    assert library.bridge_force_tactic(op.encode(), -1, ctypes.byref(before)) == 0
    assert library.bridge_force_tactic(op.encode(), before, None) == 0
    return before.value


def test_a_tactic_within_another_leaves_that_one_in_force():
    with libraries.tactic("deform_conv2d", 2):
        with libraries.tactic("deform_conv2d", 0), libraries.tactic("relu", 7):
            assert (tactic_in_force("deform_conv2d"), tactic_in_force("relu")) == (0, 7)
        assert (tactic_in_force("deform_conv2d"), tactic_in_force("relu")) == (2, -1)
    assert tactic_in_force("deform_conv2d") == -1


def test_a_tactic_is_of_an_op_that_exists():
    with pytest.raises(ValueError, match="no op is called 'nothing'; there are"), libraries.tactic("nothing", 0):
        pass


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "number"), EVERY_KERNEL)
@pytest.mark.parametrize("channels", [64, 40], ids=["as it is", "padded"])
def test_channels_last_is_the_same(channels, dtype, number):
    args = deform_conv2d_arguments(2, channels, (9, 13), 32, padding=(1, 1))
    x, *others = cast(args, dtype, "cuda")
    shifted = torch.empty(x.numel() + 8, dtype=x.dtype, device="cuda")[8:].view(2, 9, 13, channels).permute(0, 3, 1, 2)
    shifted.copy_(x)
    expected = by_kernel(number, x, *others, padding=1)
    for last in (x.to(memory_format=torch.channels_last), shifted):
        assert torch.equal(by_kernel(number, last, *others, padding=1), expected)


NARROW_OR_UNEVEN = [(64, 16, 1), (48, 12, 2), (72, 1, 1), (100, 1, 1)]  # channels, groups, offset groups


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("channels", "groups", "offset_groups"), NARROW_OR_UNEVEN)
def test_narrow_groups_and_uneven_channels_by_every_kernel(channels, groups, offset_groups, dtype):
    options = {"groups": groups, "offset_groups": offset_groups, "padding": (1, 0), "stride": (1, 2)}
    args = deform_conv2d_arguments(2, channels, (9, 11), 48, **options)
    for number in range(-1, KERNELS[dtype]):
        with libraries.tactic("deform_conv2d", number):
            check_cuda(OPS["deform_conv2d"], dtype, *args, padding=[1, 0], stride=[1, 2])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(7, 7), (4, 6), (3, 100)], ids=["flat", "flat, aligned", "rectangles"])
def test_small_images_share_tiles_and_blocks_share_sums_by_every_kernel(size, dtype):
    args = deform_conv2d_arguments(5, 192, size, 320, padding=(1, 1))
    for number in range(-1, KERNELS[dtype]):
        with libraries.tactic("deform_conv2d", number):
            check_cuda(OPS["deform_conv2d"], dtype, *args, padding=[1, 1])


@pytest.mark.gpu
def test_tf32_rounds_where_it_is_asked_for():
    args = deform_conv2d_arguments(2, 64, (15, 14), 64, padding=(1, 1))
    exact = bridge.deform_conv2d(*cast(args, torch.float64), padding=1)

    def error(**settings):
        y = bridge.deform_conv2d(*cast(args, device="cuda"), padding=1, **settings).cpu().double()
        return ((y - exact).abs().max() / exact.abs().max()).item()

    assert error() < 5e-6 and 2e-5 < error(allow_tf32=True) < 2e-3


def tf32_samples():
    options = {"padding": (1, 0), "stride": (1, 2)}
    narrow = [
        (sizes, deform_conv2d_arguments(2, sizes[0], (9, 11), 48, groups=sizes[1], offset_groups=sizes[2], **options))
        for sizes in NARROW_OR_UNEVEN
    ]
    return [
        *further(),
        *((str(sizes), args, {name: list(pair) for name, pair in options.items()}) for sizes, args in narrow),
    ]


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "kwargs"), [pytest.param(*rest, id=label) for label, *rest in tf32_samples()])
def test_every_kernel_that_rounds_to_tf32_is_near_the_reference(args, kwargs):
    exact = bridge.deform_conv2d(*cast(args, torch.float64), **kwargs)
    given = cast(args, device="cuda")
    for number in TF32_KERNELS:
        with poisoned():
            y = by_kernel(number, *given, **kwargs).cpu().double()
        assert (y - exact).abs().max() < 2e-3 * exact.abs().max(), number


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(KERNELS[torch.float32]))
def test_infinities_and_nan_pass_through_float32_kernels(number):
    args = deform_conv2d_arguments(1, 32, (6, 6), 16, kernel=(1, 1), mask=False)
    x, offset, weight, bias, _ = cast(args, device="cuda")
    offset.zero_()
    weight.copy_(weight.sign() * 0.5)  # exact in TF32: nothing is left of it
    x[0, 3, 1, 1], x[0, 5, 1, 4], x[0, 7, 4, 1] = math.inf, -math.inf, math.nan
    y = by_kernel(number, x, offset, weight, bias)
    assert torch.equal(y[0, :, 1, 1], weight[:, 3, 0, 0] * math.inf)
    assert torch.equal(y[0, :, 1, 4], weight[:, 5, 0, 0] * -math.inf)
    assert y[0, :, 4, 1].isnan().all()
    assert y.isfinite().sum() == 16 * 24  # and those that they are a corner of, with no weight


def running_plugin(tensors, given, actual):
    """A plugin of these sizes, and a call that runs it."""
    plugin = Plugin(Plugin.create("deform_conv2d", {"padding": [1, 1], "tensors": tensors}))
    assert plugin.configure(given, [actual]) == 0
    plugin = plugin.attach()
    assert plugin.shape_change(given, [actual]) == 0
    scratch = torch.empty(plugin.workspace(given, [actual]), dtype=torch.uint8, device="cuda")

    def run():
        actual.fill_(math.nan)
        assert plugin.enqueue(given, [actual], torch.cuda.current_stream().cuda_stream, scratch) == 0
        return actual.clone()

    return plugin, run


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_plugin_lays_out_weights_once_where_they_are_constants(dtype):
    args = [t.to("cuda", dtype) for t in tensor_core_arguments()[0]]
    actual = torch.empty(2, 64, 9, 10, dtype=dtype, device="cuda")
    _, varying = running_plugin("x,offset,weight,bias,mask", args, actual)
    plugin, constant = running_plugin("x,offset,weight=,bias,mask", args, actual)
    first = varying()
    assert torch.equal(constant(), first)
    args[2].zero_()  # what no engine does to its constants shows that they were kept
    assert torch.equal(constant(), first) and not torch.equal(varying(), first)
    assert plugin.set_tactic(1) == 0 and plugin.shape_change(args, [actual]) == 0
    assert torch.equal(constant(), first)
    assert not torch.equal(running_plugin("x,offset,weight=,bias,mask", args, actual)[1](), first)


@pytest.mark.gpu
def test_weights_are_not_kept_from_a_graph_that_has_not_run():
    args = [t.to("cuda") for t in tensor_core_arguments()[0]]
    actual = torch.empty(2, 64, 9, 10, dtype=torch.half, device="cuda")
    expected = running_plugin("x,offset,weight,bias,mask", args, actual)[1]()
    _, run = running_plugin("x,offset,weight=,bias,mask", args, actual)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    assert torch.equal(run(), expected)
    graph.replay()
    assert torch.equal(captured, expected)
