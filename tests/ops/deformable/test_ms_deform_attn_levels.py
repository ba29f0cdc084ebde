"""Levels of ms_deform_attn: within value or refused, inputs of an engine or constants."""

import pytest
import torch
from samples.ms_deform_attn import ms_deform_attn_arguments

import bridge
from bridge.errors import OpInputError
from bridge.testing import cast

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
