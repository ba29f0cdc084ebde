import math

import pytest
import torch
from samples.ms_deform_attn import ENCODERS
from samples.ms_deform_attn_fused import ms_deform_attn_fused_arguments, random_call
from test_ms_deform_attn import by_grid_sample
from test_ms_deform_attn_levels import BAD_LEVELS

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import cast, check_cuda, check_error, check_export

NAMES = tuple(OPS["ms_deform_attn_fused"].tensors)


def unfused(value, spatial_shapes, level_start_index, references, offsets, logits):
    """The arguments of ms_deform_attn, as Deformable DETR makes them."""
    if references.shape[-1] == 4:
        boxes = references[:, :, None, :, None, :]
        locations = boxes[..., :2] + offsets / offsets.shape[4] * boxes[..., 2:] * 0.5
    else:
        normalizer = spatial_shapes.flip(-1)[None, None, None, :, None, :]
        locations = references[:, :, None, :, None, :] + offsets / normalizer
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    return value, spatial_shapes, level_start_index, locations, weights


@pytest.mark.parametrize("seed", range(20))
def test_is_grid_sample_at_the_modules_locations(seed):
    args, _ = random_call(seed)
    if args[0].shape[0] * args[4].shape[1] == 0:
        args = ms_deform_attn_fused_arguments(2, 5, 3, 7, [(2, 9), (4, 3)], 5, boxes=bool(seed % 2), seed=seed)
    args = cast(args, torch.float64)
    torch.testing.assert_close(bridge.ms_deform_attn_fused(*args), by_grid_sample(*unfused(*args)))


@pytest.mark.parametrize("boxes", [False, True])
def test_is_the_plain_op_with_softmax_and_locations_outside(boxes):
    args = ms_deform_attn_fused_arguments(2, 9, boxes=boxes)
    torch.testing.assert_close(
        bridge.ms_deform_attn_fused(*args), bridge.ms_deform_attn(*unfused(*args)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("boxes", "two_stage"), [(False, False), (True, True)])
def test_is_hugging_face_deformable_detr(boxes, two_stage):
    """The module's own forward, from the outputs of its linear layers."""
    modeling = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    config = modeling.DeformableDetrConfig(
        d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, num_feature_levels=2, two_stage=two_stage,
        with_box_refine=two_stage, disable_custom_kernels=True,
    )  # fmt: skip
    torch.manual_seed(0)
    module = modeling.DeformableDetrMultiscaleDeformableAttention(config, num_heads=4, n_points=3).double().eval()
    torch.nn.init.normal_(module.sampling_offsets.weight, std=0.3)
    torch.nn.init.normal_(module.attention_weights.weight, std=0.3)
    value, shapes, starts, references, _, _ = cast(
        ms_deform_attn_fused_arguments(2, 9, 4, 8, [(7, 9), (4, 5)], 3, boxes=boxes), torch.float64
    )
    memory, hidden = value.flatten(2), torch.randn(2, 9, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = module(
            hidden, encoder_hidden_states=memory, reference_points=references, spatial_shapes=shapes,
            spatial_shapes_list=shapes.tolist(), level_start_index=starts,
        )[0]  # fmt: skip
        offsets = module.sampling_offsets(hidden).view(2, 9, 4, 2, 3, 2)
        logits = module.attention_weights(hidden).view(2, 9, 4, 2, 3)
        projected = module.value_proj(memory).view(2, -1, 4, 8)
        ours = bridge.ms_deform_attn_fused(projected, shapes, starts, references, offsets, logits)
        torch.testing.assert_close(module.output_proj(ours), expected)


def special(args):
    """What is infinite or NaN, each in a query of its own: places of NaN, and of zeros."""
    _, _, _, references, offsets, logits = args
    offsets[0, 2] = 1e30
    offsets[0, 3] = -math.inf
    offsets[0, 4, :, 0, 1, 0] = math.nan
    references[0, 5, 1, 1] = math.nan
    logits[0, 6, 1, 0, 0] = math.nan
    logits[0, 7, 1] = -math.inf
    logits[0, 8, 1, 0, 0] = math.inf
    logits[0, 9, 1, 0, :2] = -math.inf  # two points do not count
    nan = torch.zeros(12, 2, args[0].shape[3], dtype=torch.bool)
    nan[4:6], nan[6:9, 1] = True, True
    return nan.flatten(1), [2, 3]


@pytest.mark.parametrize("boxes", [False, True])
def test_what_is_not_finite_shows_where_it_is_and_nowhere_else(boxes):
    args = ms_deform_attn_fused_arguments(1, 12, boxes=boxes)
    nan, outside = special(args)
    out = bridge.ms_deform_attn_fused(*args)[0]
    assert torch.equal(out.isnan(), nan) and (out[outside] == 0).all()


def _args(boxes=False, **changes):
    shapes = [(7, 9), (4, 5), (2, 3)]
    args = ms_deform_attn_fused_arguments(2, 5, 2, 8, shapes, boxes=boxes)
    return {**dict(zip(NAMES, args, strict=True)), **changes}


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ("value", _args(value=_zeros(2, 89, 16)), r"value has shape .2, 89, 16., expected .batch, positions, heads"),
    ("logits rank", _args(attention_logits=_zeros(2, 5, 2, 12)), r"attention_logits has shape .2, 5, 2, 12., exp"),
    ("heads", _args(attention_logits=_zeros(2, 5, 3, 3, 4)), r"logits has shape .*, expected .2, 5, 2, 3, 4."),
    ("levels", _args(spatial_shapes=_zeros(2, 2, dtype=torch.int64)), r"shapes has shape .2, 2., expected .3, 2."),
    ("offsets", _args(sampling_offsets=_zeros(2, 5, 2, 3, 5, 2)), r"offsets has shape .*, expected .2, 5, 2, 3, 4, 2."),
    ("queries", _args(reference_points=_zeros(2, 6, 3, 2)), r"points has shape .*, expected .2, 5, 3, 2."),
    ("three", _args(reference_points=_zeros(2, 5, 3, 3)), r"points has shape .*, expected .2, 5, 3, 2."),
    ("boxes", _args(reference_points=_zeros(2, 5, 2, 4)), r"points has shape .*, expected .2, 5, 3, 4."),
    ("points", _args(attention_logits=_zeros(2, 5, 2, 3, 342)), "3 levels of 342 points, expected 1 to 1024 in all"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    with pytest.raises(OpInputError, match=text):
        bridge.ms_deform_attn_fused(**args)
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(OPS["ms_deform_attn_fused"], [tuple(args[name].shape) for name in NAMES], {})


@pytest.mark.parametrize("name", NAMES[3:])
def test_bad_dtypes(name):
    args = _args()
    with pytest.raises(OpInputError, match=f"{name} is torch.float16, expected torch.float32"):
        bridge.ms_deform_attn_fused(**{**args, name: args[name].half()})


def test_levels_that_are_not_within_value():
    args = _args()
    args["spatial_shapes"][1, 0] = 40
    with pytest.raises(OpInputError, match="ms_deform_attn_fused: level 1 of 40 x 5 from position 63 on"):
        bridge.ms_deform_attn_fused(**args)


@pytest.mark.parametrize("boxes", [False, True])
def test_export(boxes):
    batch, queries = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("queries", min=1, max=500)
    points = {0: batch, 1: queries}
    check_export(
        OPS["ms_deform_attn_fused"],
        lambda n: ms_deform_attn_fused_arguments(n, n + 4, boxes=boxes, seed=n),
        [{0: batch}, None, None, points, points, points],
    )


def mixed(args, dtype, floats):
    """16-bit values; those of the last three arguments that `floats` names stay float32."""
    return [t.to(dtype) if t.is_floating_point() and i not in floats else t for i, t in enumerate(args)]


MIXED = [(3,), (4,), (5,), (3, 4, 5)]


@pytest.mark.parametrize("floats", MIXED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_float32_coordinates_of_16_bit_values(dtype, floats):
    args = mixed(ms_deform_attn_fused_arguments(2, 5, boxes=True), dtype, floats)
    out = bridge.ms_deform_attn_fused(*args)
    assert torch.equal(out, bridge.ms_deform_attn_fused(*cast(args, torch.float32)).to(dtype))


# On a GPU

GPU_SIZES = [
    # batch, queries, heads, head_dim, shapes, points
    (2, 3, 3, 8, [(5, 7), (3, 3)], 4),
    (1, 300, 8, 32, [(12, 17), (6, 9), (3, 5), (2, 3)], 4),
    (3, 1500, 8, 32, [(12, 17), (6, 9), (3, 5), (2, 3)], 4),
    (1, 40, 2, 40, [(9, 4)], 33),
    (1, 9, 2, 72, [(9, 4), (2, 2)] * 8, 64),
    (2, 77, 3, 5, [(3, 9), (8, 2), (1, 5)], 5),
]


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1])
@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", GPU_SIZES, ids=str)
def test_every_kernel_is_the_reference(sizes, dtype, boxes, tactic):
    with libraries.tactic("ms_deform_attn_fused", tactic):
        check_cuda(OPS["ms_deform_attn_fused"], dtype, *ms_deform_attn_fused_arguments(*sizes, boxes=boxes))


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [3, 32])
@pytest.mark.parametrize("floats", MIXED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_cuda_float32_coordinates(dtype, floats, head_dim):
    args = mixed(ms_deform_attn_fused_arguments(2, 33, 4, head_dim, boxes=True), dtype, floats)
    exact = OPS["ms_deform_attn_fused"].run(*cast(args, torch.float64))
    ours = bridge.ms_deform_attn_fused(*cast(args, device="cuda"))
    check_error("ms_deform_attn_fused", exact, bridge.ms_deform_attn_fused(*args), ours.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("head_dim", [3, 8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_cuda_what_is_not_finite_shows_where_it_is(dtype, head_dim, boxes):
    args = ms_deform_attn_fused_arguments(1, 12, head_dim=head_dim, boxes=boxes)
    nan, outside = special(args)
    args = cast(args, dtype)  # 1e30 is infinite in float16
    ours = bridge.ms_deform_attn_fused(*cast(args, device="cuda")).cpu()
    assert torch.equal(ours[0].isnan(), nan) and (ours[0, outside] == 0).all()
    torch.testing.assert_close(ours, bridge.ms_deform_attn_fused(*args), equal_nan=True, rtol=5e-3, atol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("boxes", [False, True])
def test_many_queries_show_what_is_not_finite_where_it_is(boxes):
    """So many that a kernel of their own takes them; each is one of twelve."""
    args = ms_deform_attn_fused_arguments(1, 12, head_dim=32, boxes=boxes)
    nan, outside = special(args)
    args = cast(args, torch.float16)
    expected = bridge.ms_deform_attn_fused(*args)
    args[3:] = [tensor.repeat(1, 701, *[1] * (tensor.dim() - 2)) for tensor in args[3:]]
    ours = bridge.ms_deform_attn_fused(*cast(args, device="cuda")).cpu().unflatten(1, (701, 12))
    assert (ours.isnan() == nan).all() and (ours[0, :, outside] == 0).all()
    torch.testing.assert_close(ours, expected[:, None].expand_as(ours), equal_nan=True, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "points", "shapes"), ENCODERS, ids=str)
def test_an_encoder_is_the_reference(heads, points, shapes, dtype, boxes):
    queries = sum(h * w for h, w in shapes)
    args = ms_deform_attn_fused_arguments(1, queries, heads, 32, shapes, points, boxes=boxes)
    check_cuda(OPS["ms_deform_attn_fused"], dtype, *args)


@pytest.mark.gpu
@pytest.mark.parametrize(("place", "number", "text"), BAD_LEVELS)
def test_cuda_levels_that_are_not_within_value_make_nan(place, number, text):
    args = ms_deform_attn_fused_arguments(1, 5, shapes=[(7, 9), (2, 3)])
    args[2 if isinstance(place, int) else 1][place] = number
    assert bridge.ms_deform_attn_fused(*cast(args, device="cuda")).isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(args, text):
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.ms_deform_attn_fused(**{name: value.cuda() for name, value in args.items()})
