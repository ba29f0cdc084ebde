"""Deformable attention in unmodified detection models of transformers, small and with random weights."""

import importlib

import pytest
import torch
from attention_over_levels import HEAD_DIM, HEADS, LEVELS, POINTS, arguments, calls
from rope_programs import check_same, export
from torch import nn
from torch.export import Dim

import bridge
from bridge.graph import capture
from bridge.passes import pass_names, rewrite

transformers = pytest.importorskip("transformers", reason="needs transformers")

MODULES = ["deformable_detr", "grounding_dino", "mm_grounding_dino", "omdet_turbo", "rt_detr", "lw_detr", "rf_detr"]
FUNCTIONS = ["mask2former", "oneformer"]
WITH_POINTS = ["rt_detr_v2", "d_fine"]


def attention_of(name, points=None):
    """The attention of a model, of value [N, S, H D], locations [N, Q, H, L, P, 2] and logits [N, Q, H, L P]."""
    modeling = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    points = points or [POINTS] * len(LEVELS)

    def attend(value, locations, logits):
        value = value.view(*value.shape[:2], HEADS, HEAD_DIM)
        weights = logits.softmax(-1)
        if name in WITH_POINTS:
            args = (value, LEVELS, locations.flatten(3, 4), weights, points)
            return modeling.multi_scale_deformable_attention_v2(*args)
        weights = weights.view(locations.shape[:-1])
        if name in FUNCTIONS:
            return modeling.multi_scale_deformable_attention(value, LEVELS, locations, weights)
        return modeling.MultiScaleDeformableAttention()(value, None, LEVELS, None, locations, weights, 64)

    return attend


@pytest.mark.parametrize("name", [*MODULES, *FUNCTIONS, *WITH_POINTS])
def test_attention_of(name):
    attend = attention_of(name)
    found, outcomes = rewrite(export(attend, arguments()), pass_names(True))
    assert [outcome.what for outcome in outcomes] == ["bridge.ms_deform_attn over levels of 4x5, 2x3, 1x2"]
    assert len(calls(found)) == 1
    check_same(found, attend, tuple(tensor.flip(0) for tensor in arguments()))


def test_levels_with_other_numbers_of_points_are_declined():
    attend = attention_of("d_fine", points=[4, 2, 3])
    program = export(attend, arguments())
    found, (outcome,) = rewrite(program, pass_names(True))
    assert found is program and "its levels have 4, 2, 3 points" in outcome.what


class Detector(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        found = self.model(pixel_values)
        return found.logits, found.pred_boxes


def deformable_detr(dtype=torch.float32):
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8],
        depths=[1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3"],
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=10,
        num_feature_levels=2,
        num_labels=5,
    )
    return Detector(transformers.DeformableDetrForObjectDetection(config)).to(dtype).eval()


def image(batch=2):
    return torch.randn(batch, 3, 32, 48, generator=torch.Generator().manual_seed(batch))


SHAPES = {"pixel_values": {0: Dim("batch", min=1, max=4)}}


@pytest.fixture(scope="module")
def program():
    """As torch.export captures it; neither a rewrite nor a compile changes it."""
    return capture.export(deformable_detr(), (image(),), {}, SHAPES)


@torch.no_grad()
def test_deformable_detr(program):
    model = deformable_detr()
    found, outcomes = rewrite(program, pass_names(True))
    assert [outcome.replaced for outcome in outcomes] == [True] * 3  # one encoder layer, two decoder layers
    assert all("modeling_deformable_detr.py" in outcome.line for outcome in outcomes)
    for batch in (1, 3):
        results = found.module(check_guards=False)(image(batch)), model(image(batch))
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_one_engine(program):
    compiled = bridge.compile(program, target="sm86")
    assert compiled.plugin_counts() == {"ms_deform_attn_fused": 3}
    assert len(bridge.report(compiled).passes) == 3


@pytest.mark.gpu(engines=True)
@torch.no_grad()
def test_engine_against_eager(device):
    model = deformable_detr().to(device)
    compiled = bridge.compile(model, (image().to(device),), dynamic_shapes=SHAPES)
    for batch in (1, 3):
        given = image(batch).to(device)
        for actual, expected in zip(compiled(given), model(given), strict=True):
            assert (actual - expected).abs().max() <= 2e-2 * expected.abs().max()  # TF32 in convolutions and products


def with_points(name):
    """RT-DETRv2, or D-FINE, whose attention asserts the values of a tensor."""
    torch.manual_seed(0)
    stages = {"hidden_sizes": [16] * 4, "depths": [1] * 4, "out_features": ["stage2", "stage3", "stage4"]}
    sizes = {
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "decoder_layers": 2,
        "encoder_in_channels": [16] * 3,
        "decoder_in_channels": [32] * 3,
        "num_queries": 20,
        "num_denoising": 0,
    }
    if name == "rt_detr_v2":
        backbone = transformers.RTDetrResNetConfig(
            embedding_size=8, layer_type="basic", **{**stages, "hidden_sizes": [8, 16, 16, 16]}
        )
        config = transformers.RTDetrV2Config(backbone_config=backbone, **sizes)
        return Detector(transformers.RTDetrV2ForObjectDetection(config)).eval()
    channels = {"stage_in_channels": [16] * 4, "stage_mid_channels": [8] * 4, "stage_out_channels": [16] * 4}
    blocks = {"stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4, "stem_channels": [3, 8, 16]}
    backbone = transformers.HGNetV2Config(**channels, **blocks, **stages)
    return Detector(
        transformers.DFineForObjectDetection(transformers.DFineConfig(backbone_config=backbone, **sizes))
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_POINTS)
def test_models_that_assert_values_are_one_engine(name):
    model, x = with_points(name), torch.randn(1, 3, 64, 64)
    program = capture.export(model, (x,), {}, None)
    found, outcomes = rewrite(program, pass_names(True))
    assert [outcome.replaced for outcome in outcomes] == [True, True]
    for actual, expected in zip(found.module()(x), model(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert bridge.compile(program, target="sm86").plugin_counts() == {"ms_deform_attn_fused": 2}
