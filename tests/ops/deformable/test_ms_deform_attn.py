import math

import pytest
import torch
import torch.nn.functional as F
from plugin_host import Plugin
from samples.ms_deform_attn import ms_deform_attn_arguments, random_call

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import cast, check_export

NAMES = ("value", "spatial_shapes", "level_start_index", "sampling_locations", "attention_weights")


def by_grid_sample(value, spatial_shapes, level_start_index, locations, weights):
    """Each level as a map of its own, sampled by PyTorch's operator."""
    n, _, heads, head_dim = value.shape
    queries = locations.shape[1]
    total = value.new_zeros(n * heads, head_dim, queries)
    for level, (h, w) in enumerate(spatial_shapes.tolist()):
        start = int(level_start_index[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # [N H, Q, P, 2]
        maps = value[:, start : start + h * w].permute(0, 2, 3, 1).reshape(n * heads, head_dim, h, w)
        samples = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)  # [N H, D, Q, P]
        total = total + (samples * weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(-1)
    return total.reshape(n, heads * head_dim, queries).transpose(1, 2)


@pytest.mark.parametrize("seed", range(20))
def test_is_grid_sample_of_every_level(seed):
    args, _ = random_call(seed)
    if args[0].shape[0] * args[3].shape[1] == 0:
        args[:] = ms_deform_attn_arguments(2, 5, 3, 7, [(2, 9), (4, 3), (1, 1)], 5, seed=seed)
    args = cast(args, torch.float64)
    torch.testing.assert_close(bridge.ms_deform_attn(*args), by_grid_sample(*args))


def test_levels_may_lie_in_any_order_with_gaps_between_them():
    value, shapes, starts, locations, weights = ms_deform_attn_arguments(2, 5, shapes=[(7, 9), (4, 5)])
    moved = torch.cat((torch.full_like(value[:, :3], math.nan), value[:, 63:], value[:, :63]), 1)
    expected = bridge.ms_deform_attn(value, shapes, starts, locations, weights)
    assert torch.equal(bridge.ms_deform_attn(moved, shapes, starts.new_tensor([23, 3]), locations, weights), expected)


def test_a_location_is_x_before_y_of_pixel_centres():
    value = torch.arange(6.0).reshape(1, 6, 1, 1)
    places = torch.tensor([[0.5 / 3, 0.25], [2.5 / 3, 0.75], [0.5, 0.5], [0.0, 0.25], [1.0, 1.0]])
    locations = places.reshape(1, 5, 1, 1, 1, 2)
    levels = torch.tensor([[2, 3]]), torch.tensor([0])
    out = bridge.ms_deform_attn(value, *levels, locations, torch.ones(1, 5, 1, 1, 1))
    torch.testing.assert_close(out[0, :, 0], torch.tensor([0.0, 5.0, 2.5, 0.0, 1.25]))


def special(args):
    """What is infinite, NaN or far outside, each in a query of its own: places of NaN, and of zeros."""
    value, _, _, locations, weights = args
    value[0, 9, 0, 0] = math.inf  # the first column of the second row of 7 x 9
    locations[0, :2] = 0.5
    locations[0, 1, 0, 0, 0, 0], locations[0, 1, 0, 0, 0, 1] = 0.8 / 9, 1.7 / 7
    locations[0, 2] = -3.0
    locations[0, 3] = 1e30
    locations[0, 4] = math.inf
    locations[0, 5, :, 0, 1, 0] = math.nan
    locations[0, 6, 1, 1, 0, 1] = math.nan
    weights[0, 7, 1, 0, 0] = math.nan
    head_dim = value.shape[3]
    nan = torch.zeros(12, 2, head_dim, dtype=torch.bool)
    nan[5], nan[6, 1], nan[7, 1] = True, True, True
    return nan.flatten(1), [2, 3, 4]


def test_what_is_not_finite_shows_where_it_is_and_nowhere_else():
    args = ms_deform_attn_arguments(1, 12, shapes=[(7, 9), (4, 5)])
    nan, outside = special(args)
    out = bridge.ms_deform_attn(*args)[0]
    assert torch.equal(out.isnan(), nan)
    assert (out[outside] == 0).all() and out[1, 0] == math.inf and not out[:, 1:].isinf().any()


def test_gradients_of_points_far_outside_are_zero():
    args = ms_deform_attn_arguments(1, 3)
    args[3][0, 1] = math.inf
    args[3].requires_grad_()
    bridge.ms_deform_attn(*args).sum().backward()
    assert (args[3].grad[0, 1] == 0).all() and args[3].grad[0, 0].abs().sum() > 0


def _args(**changes):
    shapes = [(7, 9), (4, 5), (2, 3)]
    return {**dict(zip(NAMES, ms_deform_attn_arguments(2, 5, 2, 8, shapes), strict=True)), **changes}


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ("value rank", _args(value=_zeros(2, 89, 16)), r"value has shape .2, 89, 16., expected .batch, positions, heads"),
    ("weights rank", _args(attention_weights=_zeros(2, 5, 2, 12)), r"attention_weights has shape .2, 5, 2, 12., exp"),
    ("weights batch", _args(attention_weights=_zeros(1, 5, 2, 3, 4)), r"expected .2, 5, 2, 3, 4."),
    ("weights heads", _args(attention_weights=_zeros(2, 5, 3, 3, 4)), r"expected .2, 5, 2, 3, 4."),
    ("levels", _args(spatial_shapes=_zeros(2, 2, dtype=torch.int64)), r"shapes has shape .2, 2., expected .3, 2."),
    ("flat shapes", _args(spatial_shapes=_zeros(6, dtype=torch.int64)), r"shapes has shape .6,?., expected .3, 2."),
    ("starts", _args(level_start_index=_zeros(4, dtype=torch.int64)), r"start_index has shape .4,?., expected .3"),
    ("locations", _args(sampling_locations=_zeros(2, 5, 2, 3, 4, 3)), r"expected .2, 5, 2, 3, 4, 2."),
    ("queries", _args(sampling_locations=_zeros(2, 6, 2, 3, 4, 2)), r"expected .2, 5, 2, 3, 4, 2."),
    ("no points", _args(attention_weights=_zeros(2, 5, 2, 3, 0)), "3 levels of 0 points, expected 1 to 1024 in all"),
    ("points", _args(attention_weights=_zeros(2, 5, 2, 3, 400)), "3 levels of 400 points, expected 1 to 1024 in all"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    with pytest.raises(OpInputError, match=text):
        bridge.ms_deform_attn(**args)
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(OPS["ms_deform_attn"], [tuple(args[name].shape) for name in NAMES], {})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((2**31, 1, 1, 1), "there are 2147483648 images, expected fewer than 2^31"),
        ((1, 2**31, 1, 1), "there are 2147483648 positions, expected fewer than 2^31"),
        ((1, 2**20, 32, 64), "value has 2147483648 elements an image, expected fewer than 2^31"),
        ((1, 1, 2**15, 2**14), r"value has 536870912 channels \(heads \* head_dim\), expected at most 268435456"),
    ],
)
def test_extents_beyond_the_kernels_numbers(value, text):
    text = text.replace("^", r"\^")
    shapes = [value, (1, 2), (1,), (value[0], 1, value[2], 1, 1, 2), (value[0], 1, value[2], 1, 1)]
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(OPS["ms_deform_attn"], shapes, {})
    dtypes = (torch.float16, torch.int64, torch.int64, torch.float16, torch.float16)
    with pytest.raises(OpInputError, match=text):
        bridge.ms_deform_attn(*(_zeros(1, dtype=d).to("meta").expand(s) for s, d in zip(shapes, dtypes, strict=True)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"value": _zeros(2, 89, 2, 8, dtype=torch.int64)}, "value is torch.int64, expected torch.float32"),
        ({"spatial_shapes": _zeros(3, 2)}, "spatial_shapes is torch.float32, expected torch.int32 or torch.int64"),
        ({"level_start_index": _zeros(3)}, "level_start_index is torch.float32, expected torch.int32 or torch.int64"),
        (
            {"sampling_locations": _zeros(2, 5, 2, 3, 4, 2, dtype=torch.float16)},
            "sampling_locations is torch.float16, ",
        ),
        (
            {"attention_weights": _zeros(2, 5, 2, 3, 4, dtype=torch.bfloat16)},
            "attention_weights is torch.bfloat16, exp",
        ),
    ],
)
def test_bad_dtypes(changes, text):
    with pytest.raises(OpInputError, match=text):
        bridge.ms_deform_attn(**_args(**changes))


def test_export():
    batch, queries = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("queries", min=1, max=500)
    points = {0: batch, 1: queries}
    check_export(
        OPS["ms_deform_attn"],
        lambda n: ms_deform_attn_arguments(n, n + 4, seed=n),
        [{0: batch}, None, None, points, points],
    )


def test_positions_may_be_dynamic_too():
    positions = torch.export.Dim("positions", min=1, max=500)
    check_export(
        OPS["ms_deform_attn"],
        lambda n: ms_deform_attn_arguments(2, 3, shapes=[(n, 4), (2, n)]),
        [{1: positions}, None, None, None, None],
    )


def test_the_gradient_traces_with_dynamic_shapes():
    """Levels cannot be read while tracing, and must not become constants."""

    def loss(*args):
        return bridge.ms_deform_attn(*args).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", dynamic=True, fullgraph=True)
    for seed, shapes in enumerate([[(7, 9), (4, 5)], [(3, 2), (8, 4)]]):
        grads = []
        for function in (loss, compiled):
            args = ms_deform_attn_arguments(2, 3 + seed, shapes=shapes, seed=seed)
            leaves = [args[i].requires_grad_() for i in (0, 3, 4)]
            grads.append(torch.autograd.grad(function(*args), leaves))
        torch.testing.assert_close(*grads)


def test_the_plugin_offers_its_own_choice_and_two_kernels_for_vectors_of_16_bits():
    plugin = Plugin(Plugin.create("ms_deform_attn", {}))
    for dtype, head_dim, count in (
        (torch.float16, 32, 3),
        (torch.bfloat16, 8, 3),
        (torch.float16, 4, 0),
        (torch.float32, 32, 0),
    ):
        args = cast(ms_deform_attn_arguments(1, 3, 2, head_dim), dtype)
        assert plugin.configure(args, [torch.empty(1, 3, 2 * head_dim, dtype=dtype)]) == 0
        assert len(plugin.tactics()) == count


MIXED = [(half, float_locations, float_weights)
         for half in (torch.float16, torch.bfloat16)
         for float_locations, float_weights in ((True, True), (True, False), (False, True))]  # fmt: skip


def mixed(args, dtype, float_locations, float_weights):
    """16-bit values with float32 locations or weights."""
    value, shapes, starts, locations, weights = args
    wide = torch.float32
    return [value.to(dtype), shapes, starts, locations.to(wide if float_locations else dtype),
            weights.to(wide if float_weights else dtype)]  # fmt: skip


@pytest.mark.parametrize(("dtype", "float_locations", "float_weights"), MIXED)
def test_float32_coordinates_of_16_bit_values(dtype, float_locations, float_weights):
    args = mixed(ms_deform_attn_arguments(2, 5), dtype, float_locations, float_weights)
    out = bridge.ms_deform_attn(*args)
    assert out.dtype == dtype
    assert torch.equal(out, bridge.ms_deform_attn(*cast(args, torch.float32)).to(dtype))
    plugin = Plugin(Plugin.create("ms_deform_attn", {}))
    assert all(plugin.supports(i, [*(t.dtype for t in args), dtype], len(args)) for i in range(len(args) + 1))
