"""The kernels of ms_deform_attn: each is the reference, for what is odd too; on a GPU.

Kernels are chosen by head_dim; the splits of points over lanes by the number of queries.
"""

import math

import pytest
import torch
from plugin_host import Plugin
from samples.ms_deform_attn import ENCODERS, ms_deform_attn_arguments
from test_ms_deform_attn import BAD, MIXED, mixed, special
from test_ms_deform_attn_levels import BAD_LEVELS

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.testing import cast, check_cuda, check_error
from bridge.testing.kernels import check_cuda_call

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
@pytest.mark.parametrize(("dtype", "float_locations", "float_weights"), [(torch.float16, False, False), *MIXED])
def test_many_queries_show_what_is_not_finite_where_it_is(dtype, float_locations, float_weights):
    """So many that a kernel of their own takes them; each is one of twelve."""
    args = ms_deform_attn_arguments(1, 12, head_dim=32, shapes=[(7, 9), (4, 5)])
    nan, outside = special(args)
    args = mixed(args, dtype, float_locations, float_weights)
    expected = bridge.ms_deform_attn(*args)
    args[3:] = [tensor.repeat(1, 701, *[1] * (tensor.dim() - 2)) for tensor in args[3:]]
    ours = bridge.ms_deform_attn(*cast(args, device="cuda")).cpu().unflatten(1, (701, 12))
    assert (ours.isnan() == nan).all() and (ours[0, :, outside] == 0).all()
    limit = 5e-3 if dtype == torch.float16 else 4e-2
    torch.testing.assert_close(ours, expected[:, None].expand_as(ours), equal_nan=True, rtol=limit, atol=limit)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "points", "shapes"), ENCODERS, ids=str)
def test_an_encoder_is_the_reference(heads, points, shapes, dtype, batch):
    queries = sum(h * w for h, w in shapes)
    check_cuda(
        OPS["ms_deform_attn"], dtype, *ms_deform_attn_arguments(batch, queries, heads, 32, shapes, points, seed=batch)
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "float_locations", "float_weights"), MIXED)
@pytest.mark.parametrize(("heads", "points", "shapes"), [ENCODERS[0], ENCODERS[3]], ids=str)
def test_float32_coordinates_of_an_encoder(heads, points, shapes, dtype, float_locations, float_weights):
    args = ms_deform_attn_arguments(1, sum(h * w for h, w in shapes), heads, 32, shapes, points)
    check_cuda_call(OPS["ms_deform_attn"], mixed(args, dtype, float_locations, float_weights), {})


def gap_between_levels(value, shapes, starts, locations, weights):
    return [torch.cat((value[:, :1640], value[:, :99], value[:, 1640:]), 1), shapes, starts + 99, locations, weights]


def level_left_out(value, shapes, starts, locations, weights):
    return [value, shapes[:2], starts[:2], locations[:, :, :, :2].contiguous(), weights[:, :, :, :2].contiguous()]


def levels_in_another_order(value, shapes, starts, *points):
    return [value, shapes[[2, 0, 1]], starts[[2, 0, 1]], *points]


@pytest.mark.gpu
@pytest.mark.parametrize("change", [gap_between_levels, level_left_out, levels_in_another_order])
def test_as_many_queries_as_positions_need_not_be_those_of_the_levels(change):
    queries = 2170 + 99 * (change is gap_between_levels)
    args = change(*ms_deform_attn_arguments(1, queries, 8, 32, [(40, 41), (20, 21), (10, 11)]))
    assert args[0].shape[1] == queries
    check_cuda(OPS["ms_deform_attn"], torch.float16, *args)


@pytest.mark.gpu
@pytest.mark.parametrize(("place", "number", "text"), BAD_LEVELS)
def test_levels_of_many_queries_that_are_not_within_value_make_nan(place, number, text):
    args = ms_deform_attn_arguments(1, 8200, head_dim=32, shapes=[(7, 9), (2, 3)])
    args[2 if isinstance(place, int) else 1][place] = number
    assert bridge.ms_deform_attn(*cast(cast(args, torch.float16), device="cuda")).isnan().all()


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
