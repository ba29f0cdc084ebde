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
from bridge.testing import cast, check_cuda, check_error, check_export

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


# (place, value) in spatial_shapes, or in level_start_index where place is a number; what is said on CPU.
BAD_LEVELS = [
    ((0, 0), 8, "level 0 of 8 x 9 from position 0 on is not within the 69 positions"),
    ((1, 0), -1, "level 1 of -1 x 3 from position 63 on"),
    ((1, 1), -3, "level 1 of 2 x -3 from position 63 on"),
    ((0, 0), 2**40, "level 0 of 1099511627776 x 9"),
    ((0, slice(0, 2)), 2**31 + 1, "level 0 of 2147483649 x 2147483649"),
    (1, 64, "level 1 of 2 x 3 from position 64 on"),
    (0, -1, "level 0 of 7 x 9 from position -1 on"),
    (1, 2**62, "level 1 of 2 x 3 from position 4611686018427387904 on"),
]


def bad_levels(place, number):
    args = ms_deform_attn_arguments(1, 5, shapes=[(7, 9), (2, 3)])
    args[2 if isinstance(place, int) else 1][place] = number
    return args


@pytest.mark.parametrize(("place", "number", "text"), BAD_LEVELS)
def test_levels_that_are_not_within_value(place, number, text):
    with pytest.raises(OpInputError, match=f"ms_deform_attn: {text}"):
        bridge.ms_deform_attn(*bad_levels(place, number))


@pytest.mark.parametrize(("place", "number", "text"), BAD_LEVELS)
def test_where_levels_cannot_be_seen_they_make_nan(place, number, text, monkeypatch):
    """As on CUDA, where looking at them would wait for the GPU."""
    monkeypatch.setattr("bridge.ops.ms_deform_attn.readable", lambda tensor: False)
    assert bridge.ms_deform_attn(*bad_levels(place, number)).isnan().all()


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


class Attend(torch.nn.Module):
    """The op, with levels that are inputs, or constants of the model."""

    def __init__(self, levels=None):
        super().__init__()
        for name, tensor in zip(("shapes", "starts"), levels or (), strict=False):
            self.register_buffer(name, tensor)

    def forward(self, value, locations, weights, shapes=None, starts=None):
        levels = (self.shapes, self.starts) if shapes is None else (shapes, starts)
        return bridge.ms_deform_attn(value * 2, *levels, locations, weights)


LEVELS = [(True, torch.int64), (True, torch.int32), (False, torch.int64), (False, torch.int32)]


def engine_of(constant, index, dtype, **settings):
    """Dynamic batch and queries."""
    batch, queries = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("queries", min=1, max=300)
    value, *levels, locations, weights = cast(ms_deform_attn_arguments(2, 5, index=index), dtype)
    points, others = {0: batch, 1: queries}, [] if constant else levels
    shapes = {"value": {0: batch}, "locations": points, "weights": points}
    shapes |= dict.fromkeys(("shapes", "starts")[: len(others)])
    model = Attend(levels if constant else None).eval()
    return bridge.compile(model, (value, locations, weights, *others), dynamic_shapes=shapes, **settings)


@pytest.mark.parametrize(("constant", "index"), LEVELS[1:3])
def test_levels_of_an_engine_are_inputs_or_constants(constant, index):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
    engine = engine_of(constant, index, torch.float16, target="sm86")
    assert engine.plugin_counts() == {"ms_deform_attn": 1}
    name = str(index).removeprefix("torch.")
    assert [spec.dtype for spec in engine.inputs] == ["float16"] * 3 + [name, name] * (not constant)
    assert engine.outputs[0].shape == (-1, -1, 16)


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("constant", "index"), LEVELS)
def test_engines_with_levels_of_every_kind(constant, index, dtype):
    engine = engine_of(constant, index, dtype)
    for batch, queries in ((1, 1), (8, 300), (3, 7)):
        value, *levels, locations, weights = cast(ms_deform_attn_arguments(batch, queries, index=index), dtype)
        given = cast((value, locations, weights, *([] if constant else levels)), device="cuda")
        expected = bridge.ms_deform_attn(value * 2, *levels, locations, weights)
        torch.testing.assert_close(engine(*given).cpu(), expected, rtol=1e-2, atol=1e-2)


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


# On a GPU: each kernel, by head_dim; splits of points over lanes, by the number of queries

GPU_SIZES = [
    # batch, queries, heads, head_dim, shapes, points
    (1, 1, 1, 8, [(5, 7)], 1),
    (2, 3, 3, 8, [(5, 7), (3, 3)], 4),
    (1, 5, 8, 32, [(12, 17), (6, 9), (3, 5), (2, 3)], 4),
    (1, 300, 8, 32, [(12, 17), (6, 9), (3, 5), (2, 3)], 4),
    (3, 1500, 8, 32, [(12, 17), (6, 9), (3, 5), (2, 3)], 4),
    (2, 1001, 5, 64, [(9, 4), (5, 2)], 7),
    (1, 40, 2, 40, [(9, 4)], 33),
    (1, 9, 1, 1024, [(9, 4), (2, 2)], 3),
    (1, 9, 2, 72, [(9, 4), (2, 2)] * 8, 64),
    (2, 77, 3, 5, [(3, 9), (8, 2), (1, 5)], 5),
    (2, 2000, 4, 3, [(3, 9), (8, 2)], 3),
]


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [-1, 0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", GPU_SIZES, ids=str)
def test_every_kernel_is_the_reference(sizes, dtype, tactic):
    with libraries.tactic("ms_deform_attn", tactic):
        check_cuda(OPS["ms_deform_attn"], dtype, *ms_deform_attn_arguments(*sizes))


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1])
@pytest.mark.parametrize("head_dim", [3, 32])
@pytest.mark.parametrize(("dtype", "float_locations", "float_weights"), MIXED)
def test_cuda_float32_coordinates(dtype, float_locations, float_weights, head_dim, tactic):
    args = mixed(ms_deform_attn_arguments(2, 33, 4, head_dim), dtype, float_locations, float_weights)
    exact, peer = OPS["ms_deform_attn"].run(*cast(args, torch.float64)), bridge.ms_deform_attn(*args)
    with libraries.tactic("ms_deform_attn", tactic):
        ours = bridge.ms_deform_attn(*cast(args, device="cuda"))
    assert ours.dtype == dtype
    check_error("ms_deform_attn", exact, peer, ours.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1])
@pytest.mark.parametrize("head_dim", [3, 8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_cuda_what_is_not_finite_shows_where_it_is(dtype, head_dim, tactic):
    args = ms_deform_attn_arguments(1, 12, head_dim=head_dim, shapes=[(7, 9), (4, 5)])
    nan, outside = special(args)
    args = cast(args, dtype)
    with libraries.tactic("ms_deform_attn", tactic):
        ours = bridge.ms_deform_attn(*cast(args, device="cuda")).cpu()
    assert torch.equal(ours[0].isnan(), nan) and (ours[0, outside] == 0).all()
    torch.testing.assert_close(ours, bridge.ms_deform_attn(*args), equal_nan=True, rtol=5e-3, atol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1])
@pytest.mark.parametrize("head_dim", [3, 8])
def test_cuda_infinities_at_the_edge_are_infinite(head_dim, tactic):
    """Half outside the map, where a corner stands in for another one."""
    value = torch.full((1, 12, 1, head_dim), math.inf)
    places = torch.tensor([[x, y] for x in (0.05, 0.5, 0.95) for y in (0.04, 0.45, 0.97)])
    args = [
        value,
        torch.tensor([[3, 4]]),
        torch.tensor([0]),
        places.reshape(1, 9, 1, 1, 1, 2),
        torch.ones(1, 9, 1, 1, 1),
    ]
    assert bridge.ms_deform_attn(*args).isinf().all()
    with libraries.tactic("ms_deform_attn", tactic):
        assert bridge.ms_deform_attn(*cast(args, torch.float16, "cuda")).isinf().all()


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [3, 32])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(("place", "number", "text"), BAD_LEVELS)
def test_cuda_levels_that_are_not_within_value_make_nan(place, number, text, index, head_dim):
    args = ms_deform_attn_arguments(1, 5, head_dim=head_dim, shapes=[(7, 9), (2, 3)], index=index)
    if abs(number) >= 2**31 and index == torch.int32:
        number = -(2**31) if isinstance(place, int) else 2**31 - 1
    args[2 if isinstance(place, int) else 1][place] = number
    for given in (args, cast(args, torch.float16)):
        assert bridge.ms_deform_attn(*cast(given, device="cuda")).isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_cuda_value_without_positions(dtype):
    args = cast(ms_deform_attn_arguments(2, 4, shapes=[(0, 3), (4, 0)]), dtype, "cuda")
    assert (bridge.ms_deform_attn(*args) == 0).all()
    args[1][0, 0] = 1
    assert bridge.ms_deform_attn(*args).isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(args, text):
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.ms_deform_attn(**{name: value.cuda() for name, value in args.items()})


@pytest.mark.gpu
def test_every_tactic_of_the_plugin_is_the_reference():
    args = cast(ms_deform_attn_arguments(2, 65, 4, 32), torch.float16)
    expected = bridge.ms_deform_attn(*cast(args, torch.float32))
    given, actual = cast(args, device="cuda"), torch.empty(2, 65, 128, dtype=torch.float16, device="cuda")
    plugin = Plugin(Plugin.create("ms_deform_attn", {}))
    assert plugin.configure(given, [actual]) == 0 and plugin.shape_change(given, [actual]) == 0
    assert plugin.tactics() == [1, 2, 3]
    for tactic in (0, 1, 2, 3):
        actual.fill_(math.nan)
        assert plugin.set_tactic(tactic) == 0
        assert plugin.enqueue(given, [actual], torch.cuda.current_stream().cuda_stream) == 0
        torch.testing.assert_close(actual.cpu().float(), expected, rtol=5e-3, atol=5e-3)
