"""Unmodified models with attention within windows, small, with weights so large that each step shows in the results."""

import pytest
import torch
from torch import nn

V1, V2 = "bridge.swin_attention, heads=2, window=7x7", ", of cosines"
SHIFT, GRID, MASK = ", shift=3x3", ", grid=True", ", with mask"


def torchvision_swin(version=1, channels=24):
    swin = pytest.importorskip("torchvision.models.swin_transformer", reason="needs torchvision")
    parts = {}
    if version == 2:
        parts = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer([4, 4], channels, [2], [2], [7, 7], num_classes=5, **parts)


def torchvision_maxvit():
    maxvit = pytest.importorskip("torchvision.models.maxvit", reason="needs torchvision")
    sizes = {"partition_size": 7, "stem_channels": 8, "head_dim": 8, "block_channels": [16], "block_layers": [1]}
    return maxvit.MaxVit(input_size=(56, 56), stochastic_depth_prob=0.0, num_classes=5, **sizes)


def timm_swin(size, version=1, fused=False):
    timm = pytest.importorskip("timm", reason="needs timm")
    swin = timm.models.swin_transformer_v2 if version == 2 else timm.models.swin_transformer
    kind = swin.SwinTransformerV2 if version == 2 else swin.SwinTransformer
    sizes = {"img_size": size, "patch_size": 4, "embed_dim": 24, "depths": (2,), "num_heads": (2,), "window_size": 7}
    model = kind(**sizes, num_classes=5)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return model


def timm_maxvit(head_major):
    """One whose attention has heads before q, k and v, and one where these come first."""
    maxxvit = pytest.importorskip("timm.models.maxxvit", reason="needs timm")
    attention = maxxvit.MaxxVitTransformerCfg(
        dim_head=8, window_size=(7, 7), grid_size=(7, 7), head_first=head_major, rel_pos_type="bias"
    )
    config = maxxvit.MaxxVitCfg(
        embed_dim=(16,), depths=(1,), block_type=("M",), stem_width=8, transformer_cfg=attention
    )
    return maxxvit.MaxxVit(config, img_size=56, num_classes=5)


def transformers_swin(size, version=1, attention="sdpa"):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config, kind = transformers.SwinConfig, transformers.SwinModel
    if version == 2:
        config, kind = transformers.Swinv2Config, transformers.Swinv2Model
    sizes = {"image_size": size, "patch_size": 4, "embed_dim": 24, "depths": [2], "num_heads": [2], "window_size": 7}
    return FirstResult(kind(config(**sizes, attn_implementation=attention)))


def is_bias(key):
    """Whether a weight makes a relative position bias."""
    return any(part in key for part in ("bias_table", "cpb_mlp", "continuous_position_bias"))


class FirstResult(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).last_hidden_state


MAXVIT = [V1, V1 + GRID]
# Height and width of the images: 56 pixels are two windows of 7 patches of 4, 60 are padded to three.
MODELS = {
    "torchvision": (torchvision_swin, (56, 56), [V1, V1 + SHIFT]),
    "torchvision, padded": (torchvision_swin, (60, 52), [V1, V1 + SHIFT]),
    "torchvision, one window high": (torchvision_swin, (28, 56), [V1, V1 + ", shift=0x3"]),
    "torchvision v2": (lambda: torchvision_swin(2), (60, 52), [V1 + V2, V1 + SHIFT + V2]),
    "torchvision maxvit": (torchvision_maxvit, (56, 56), [V1.partition(", window")[0]] * 2),
    "timm": (lambda: timm_swin(56), (56, 56), [V1, V1 + SHIFT]),
    "timm, padded": (lambda: timm_swin(60), (60, 60), [V1, V1 + MASK]),
    "timm, fused": (lambda: timm_swin(56, fused=True), (56, 56), [V1, V1 + SHIFT]),
    "timm v2": (lambda: timm_swin(56, 2), (56, 56), [V1 + V2, V1 + SHIFT + V2]),
    "timm maxvit": (lambda: timm_maxvit(False), (56, 56), MAXVIT),
    "timm maxvit, heads first": (lambda: timm_maxvit(True), (56, 56), MAXVIT),
    "transformers": (lambda: transformers_swin(56), (56, 56), [V1, V1 + SHIFT]),
    "transformers, padded": (lambda: transformers_swin(60), (60, 60), [V1, V1 + SHIFT]),
    "transformers, eager": (lambda: transformers_swin(56, attention="eager"), (56, 56), [V1, V1 + SHIFT]),
    "transformers v2": (lambda: transformers_swin(60, 2, "eager"), (60, 60), [V1 + V2, V1 + SHIFT + V2]),
}


def build(name):
    """A model, an image for it, and what the pass makes of its attention."""
    make, size, whats = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    for key, weight in model.named_parameters():
        with torch.no_grad():
            spread = 3.0 if is_bias(key) else 1.2 if weight.dim() == 1 else 1.2 * weight[0].numel() ** -0.5
            weight.normal_(std=spread)
    return model, torch.randn(2, 3, *size), whats
