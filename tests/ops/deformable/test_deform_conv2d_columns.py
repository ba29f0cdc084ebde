"""deform_conv2d in two passes, samples written out as columns: where it is taken, and its scratch memory."""

import math

import pytest
import torch
from plugin_host import Plugin
from samples.deform_conv2d import deform_conv2d_arguments
from samples.deform_conv2d_fused import deform_conv2d_fused_arguments

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.tensorrt.plugins.plugin_object import BUILD_PHASE, RUNTIME_PHASE
from bridge.testing import cast, poisoned
from bridge.testing.plugin_call import supposed_device

COLUMN_KERNELS = range(10, 13)  # of 16 bits
TACTICS = {number + 2 for number in COLUMN_KERNELS}  # as TensorRT counts them
WORKSPACE_FIELD = "workspace_capability"


def empty_arguments(batch, channels, size, out_channels, stride=1, dtype=torch.half):
    """Arguments of 3 × 3 with padding of 1, and a result: their shapes alone matter."""
    out = [(extent - 1) // stride + 1 for extent in size]
    shapes = (
        (batch, channels, *size),
        (batch, 18, *out),
        (out_channels, channels, 3, 3),
        (out_channels,),
        (batch, 9, *out),
    )
    return [torch.empty(shape, dtype=dtype) for shape in shapes], torch.empty(batch, out_channels, *out, dtype=dtype)


def configured(args, result, phase=BUILD_PHASE, **fields):
    plugin = Plugin(Plugin.create("deform_conv2d", {"padding": [1, 1], **fields}, phase))
    assert plugin.configure(args, [result]) == 0
    return plugin


def scratch(*sizes, phase=BUILD_PHASE, dtype=torch.half, **fields):
    args, result = empty_arguments(*sizes, dtype=dtype)
    return configured(args, result, phase, **fields).workspace(args, [result])


def column_bytes(*sizes, **options):
    """Scratch memory that an engine built on a GPU of compute capability 9.0 has beside that of others.

    It is that of columns, but for what other kernels need more beside them.
    """
    return scratch(*sizes, **{WORKSPACE_FIELD: 90}, **options) - scratch(*sizes, **{WORKSPACE_FIELD: 0}, **options)


def test_the_plugin_asks_for_scratch_memory_that_grows_with_the_shapes():
    sizes = [scratch(batch, 64, (9, 10), 64) for batch in (1, 2, 5)]
    corners, maps = 128 * 9 * 16, 64 * 90 * 2  # of a tile of 128 positions, which run on over images; of an image
    assert sizes == sorted(sizes) and sizes[0] > corners + maps
    assert sizes[2] - sizes[1] == pytest.approx(2 * corners + 3 * maps, rel=0.02)  # 180 positions: 2 tiles, 450: 4


def test_columns_have_scratch_memory_where_they_may_be_taken():
    tile = 128 * 128  # bytes of a stage: 64 channels of a tap
    assert 2 * 36 * tile * 0.9 < column_bytes(1, 256, (14, 14), 256) <= 2 * 36 * tile
    assert 2 * 72 * tile * 0.9 < column_bytes(5, 512, (7, 7), 512) <= 2 * 72 * tile
    for few in ((1, 64, (14, 14), 256), (1, 192, (14, 14), 256), (1, 256, (14, 14), 128)):
        assert column_bytes(*few) == 0
    assert column_bytes(1, 256, (14, 14), 256, dtype=torch.float32) == 0


def test_column_memory_grows_with_the_batch_up_to_a_limit():
    sizes = [column_bytes(batch, 512, (25, 38), 512) for batch in range(1, 20)]
    assert sizes[:8] == sorted(sizes[:8]) and sizes[0] == pytest.approx(8 * 72 * 128 * 128, rel=0.02)
    assert all(75 << 20 < size <= 80 << 20 for size in sizes[10:])
    all_of_it = [scratch(batch, 512, (25, 38), 512, **{WORKSPACE_FIELD: 90}) for batch in range(1, 20)]
    assert all_of_it == sorted(all_of_it)


@pytest.mark.parametrize("capability", [0, 86, 90])
def test_an_engine_keeps_for_which_gpu_it_has_scratch_memory(capability):
    args, result = empty_arguments(1, 256, (14, 14), 256)
    plugin = configured(args, result, **{WORKSPACE_FIELD: capability})
    held = {"kept": WORKSPACE_FIELD in plugin.serialized(), "size": plugin.workspace(args, [result])}
    assert held["kept"] == (capability == 90)
    for copy in (plugin.clone(), plugin.attach()):
        assert held == {"kept": WORKSPACE_FIELD in copy.serialized(), "size": copy.workspace(args, [result])}


def test_an_engine_that_does_not_say_has_none():
    sizes = (1, 256, (14, 14), 256)
    assert scratch(*sizes, phase=RUNTIME_PHASE) == scratch(*sizes, **{WORKSPACE_FIELD: 0})
    assert scratch(*sizes, phase=RUNTIME_PHASE, **{WORKSPACE_FIELD: 90}) > scratch(*sizes, phase=RUNTIME_PHASE)


def test_other_ops_have_no_such_field(capfd):
    assert Plugin.create("relu", {WORKSPACE_FIELD: 90}) is None
    assert f'unknown plugin field "{WORKSPACE_FIELD}"' in capfd.readouterr().err


WON = [  # of the shapes that were timed on an H200
    (1, 256, (50, 76), 256),
    (1, 512, (25, 38), 512),
    (4, 512, (25, 38), 512),
]
LOST = [
    (16, 512, (25, 38), 512),
    (8, 512, (50, 76), 512, 2),
    (8, 512, (7, 7), 512),
    (1, 512, (16, 16), 256),
    (8, 256, (50, 76), 256),
    (8, 256, (100, 152), 256),
    (1, 128, (100, 152), 128),
    (1, 256, (100, 152), 256),
]


@pytest.mark.parametrize(("sizes", "won"), [(s, True) for s in WON] + [(s, False) for s in LOST], ids=str)
def test_columns_are_taken_where_they_won(sizes, won):
    args, result = empty_arguments(*sizes)
    with supposed_device(OPS["deform_conv2d"], 90, 132):
        own = configured(args, result, stride=[(sizes[4:] or (1,))[0]] * 2).own_tactic()
    assert (own in TACTICS) == won


# On a GPU


@pytest.fixture
def on_hopper():
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("columns are read on compute capability 9.0 alone")


@pytest.mark.gpu
@pytest.mark.usefixtures("on_hopper")
def test_columns_are_not_taken_without_scratch_memory_for_them():
    args, result = empty_arguments(4, 512, (25, 38), 512)
    assert set(configured(args, result, RUNTIME_PHASE, **{WORKSPACE_FIELD: 90}).tactics()) > TACTICS
    for phase, fields in ((RUNTIME_PHASE, {}), (BUILD_PHASE, {WORKSPACE_FIELD: 86})):
        plugin = configured(args, result, phase, **fields)
        assert TACTICS.isdisjoint(plugin.tactics()) and plugin.own_tactic() not in TACTICS


def near_the_direct_kernel(op, args, **kwargs):
    """Whether all kernels of columns are."""
    call = getattr(bridge, op)
    with libraries.tactic(op, 0):
        expected = call(*args, **kwargs)
    for number in COLUMN_KERNELS:
        with libraries.tactic(op, number), poisoned():
            y = call(*args, **kwargs)
        assert (y - expected).abs().max() < 4e-3 * expected.abs().max(), number


@pytest.mark.gpu
def test_positions_that_do_not_fit_at_once_are_taken_in_several_passes():
    args = deform_conv2d_arguments(1, 256, (141, 150), 320, padding=(1, 1))  # 171 tiles: 142 have room
    near_the_direct_kernel("deform_conv2d", cast(args, torch.half, "cuda"), padding=1)


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_passes_apply_the_activation(activation):
    args = deform_conv2d_fused_arguments(2, 256, (100, 99), 272, padding=(1, 1))
    near_the_direct_kernel(
        "deform_conv2d_fused", cast(args, torch.half, "cuda"), padding=1, activation=activation, negative_slope=-0.5
    )


@pytest.mark.gpu
@pytest.mark.parametrize("number", COLUMN_KERNELS)
def test_what_is_not_finite_stays_in_its_position(number):
    args = cast(deform_conv2d_arguments(2, 256, (9, 9), 192, padding=(1, 1)), torch.half, "cuda")
    args[1][1, 4, 1, 2] = math.nan
    with libraries.tactic("deform_conv2d", number):
        y = bridge.deform_conv2d(*args, padding=1)
    assert y[1, :, 1, 2].isnan().all() and y.isnan().sum() == 192


@pytest.mark.gpu
@pytest.mark.parametrize("number", COLUMN_KERNELS)
@pytest.mark.parametrize("channels", [256, 232], ids=["as it is", "padded"])
def test_channels_last_is_the_same(channels, number):
    x, *others = cast(deform_conv2d_arguments(2, channels, (9, 13), 192, padding=(1, 1)), torch.half, "cuda")
    with libraries.tactic("deform_conv2d", number):
        expected = bridge.deform_conv2d(x, *others, padding=1)
        assert torch.equal(bridge.deform_conv2d(x.to(memory_format=torch.channels_last), *others, padding=1), expected)
