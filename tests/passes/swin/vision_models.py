"""More unmodified models with windows, small: with biases, and without, known by the cutting of their maps alone."""

import pytest
import torch
from torch import nn

HEADS = "bridge.swin_attention, heads=2"
W7, W8, COSINES = HEADS + ", window=7x7", HEADS + ", window=8x8", ", of cosines"
SHIFT7, SHIFT8, GRIDS = ", shift=3x3", ", shift=4x4", ("", ", grid=True")
UNPACKED = "its queries, keys and values are not views of windows with channels last"
SMALL = {"embed_dim": 24, "depths": (2,), "num_heads": (2,)}
SWIN = {"patch_size": 4, "embed_dim": 24, "depths": [2], "num_heads": [2], "window_size": 7}


class Result(nn.Module):
    """One tensor of a model's output."""

    def __init__(self, model, name):
        super().__init__()
        self.model = model
        self.name = name

    def forward(self, *inputs):
        return getattr(self.model(*inputs), self.name)


def of_timm(name, **settings):
    timm = pytest.importorskip("timm", reason="needs timm")
    return timm.create_model(name, pretrained=False, num_classes=5, **settings)


def part_of_timm(module, name, **settings):
    package = pytest.importorskip(f"timm.models.{module}", reason="needs timm")
    return getattr(package, name)(num_classes=5, **settings)


def of_transformers(name, config, result="last_hidden_state", **settings):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    return Result(getattr(transformers, name)(getattr(transformers, config)(**settings)), result)


def davit():
    return of_timm("davit_tiny", depths=(1, 1), embed_dims=(16, 32), num_heads=(2, 2))


def twins():
    sizes = {"embed_dims": (16, 32, 32, 32), "num_heads": (2, 2, 2, 2)}
    return of_timm("twins_svt_small", depths=(2, 2, 0, 0), **sizes)


def tiny_vit():
    sizes = {"embed_dims": (16, 32, 32), "num_heads": (1, 2, 2), "window_sizes": (7, 7, 7)}
    return part_of_timm("tiny_vit", "TinyVit", depths=(1, 1, 1), **sizes)


def gcvit():
    sizes = {"depths": (2,), "num_heads": (2,), "embed_dim": 16, "window_ratio": (8,), "img_size": 56}
    return part_of_timm("gcvit", "GlobalContextVit", **sizes)


def sam2():
    stages = {
        "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [4],
    }
    sizes = {"hidden_size": 16, "num_attention_heads": 1, "image_size": [224, 224]}
    return of_transformers("Sam2HieraDetModel", "Sam2HieraDetConfig", **sizes, **stages)


def hiera():
    return of_timm("hiera_tiny_224", embed_dim=32, num_heads=2, stages=(2, 1, 1, 1))


def florence2():
    """The third stage has one window."""
    package = pytest.importorskip("transformers.models.florence2", reason="needs transformers with Florence-2")
    stages = {"depths": [1, 1, 1], "embed_dim": [16, 32, 32], "num_heads": [2, 2, 2], "num_groups": [2, 2, 2]}
    sizes = {"patch_size": [7, 3, 3], "patch_stride": [4, 2, 2], "patch_padding": [3, 1, 1], "window_size": 7}
    config = package.Florence2VisionConfig(**stages, **sizes, patch_prenorm=[False, True, True], projection_dim=32)
    return package.modeling_florence2.Florence2VisionBackbone(config)


def clap():
    sizes = {"window_size": 8, "num_mel_bins": 64, "spec_size": 128, "patch_size": 4, "patch_stride": [4, 4]}
    stages = {"depths": [2, 2], "num_attention_heads": [2, 2], "hidden_size": 48, "patch_embeds_hidden_size": 24}
    return of_transformers("ClapAudioModel", "ClapAudioConfig", **sizes, **stages, num_classes=5)


def maxvit():
    return of_timm("maxvit_rmlp_nano_rw_256", embed_dim=(32,), depths=(1,))


def swin_cr():
    return of_timm("swinv2_cr_tiny_ns_224", **SMALL, img_size=56, window_size=7)


def swin_s3():
    return of_timm("swin_s3_tiny_224", **SMALL, img_size=56, window_size=(7,))


def swin2sr():
    sizes = {"image_size": 32, "embed_dim": 24, "depths": [2], "num_heads": [2], "window_size": 8}
    return of_transformers("Swin2SRForImageSuperResolution", "Swin2SRConfig", "reconstruction", **sizes)


def donut():
    return of_transformers("DonutSwinModel", "DonutSwinConfig", **SWIN, image_size=[56, 84])


def maskformer():
    return of_transformers("MaskFormerSwinModel", "MaskFormerSwinConfig", **SWIN, image_size=56)


# The shape of an input, and what the pass makes of its attention.
MODELS = {
    "timm davit": (davit, (1, 3, 112, 56), [W7]),
    "timm davit, padded": (davit, (1, 3, 60, 52), [W7]),
    "timm twins": (twins, (2, 3, 56, 112), [W7, W7]),
    "timm tiny_vit": (tiny_vit, (1, 3, 224, 224), [W7, W7]),
    "timm gcvit": (gcvit, (1, 3, 56, 56), [W7, UNPACKED]),  # the second has its queries from elsewhere
    "timm swinv2_cr": (swin_cr, (2, 3, 56, 56), [W7 + COSINES, W7 + SHIFT7 + COSINES]),
    "timm swin_s3": (swin_s3, (2, 3, 56, 56), [W7, W7 + SHIFT7]),
    "timm maxvit rmlp": (maxvit, (1, 3, 256, 256), [W8.replace("heads=2", "heads=1") + grid for grid in GRIDS]),
    "transformers sam2": (sam2, (1, 3, 224, 224), [W8.replace("heads=2", "heads=1"), HEADS + ", window=4x4"]),
    "timm hiera": (hiera, (1, 3, 224, 224), [HEADS + ", window=64x1"] * 2),
    "transformers florence-2": (florence2, (1, 3, 112, 112), [W7, W7]),
    "transformers donut": (donut, (2, 3, 56, 84), [W7, W7 + SHIFT7]),
    "transformers maskformer": (maskformer, (2, 3, 56, 84), [W7, W7 + SHIFT7]),
    "transformers swin2sr": (swin2sr, (2, 3, 32, 40), [W8 + COSINES, W8 + SHIFT8 + COSINES]),
    "transformers clap": (clap, (1, 1, 250, 64), [W8, W8 + SHIFT8] * 2),
}


def build(name):
    """A model with weights so large that each step shows in the results, an input, and what the pass makes of it."""
    make, shape, whats = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    for key, weight in model.named_parameters():
        with torch.no_grad():
            of_positions = any(
                part in key for part in ("bias_table", "attention_biases", "mlp_bias", "meta_mlp", "cpb")
            )
            if of_positions:
                weight.normal_(std=1.5)
            elif weight.dim() > 1:
                weight.normal_(std=1.2 * weight[0].numel() ** -0.5)
    return model, torch.randn(shape), whats
