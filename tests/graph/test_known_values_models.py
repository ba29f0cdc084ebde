"""Unmodified models that loop, split and branch on what they hold: codecs, encoders of images and sound of one size."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import nn

import bridge
from bridge.graph.capture import export


def encodec():
    config = transformers().EncodecConfig(
        num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=16, upsampling_ratios=[4, 2]
    )
    return transformers().EncodecModel(config), torch.randn(1, 1, 160)


def transformers():
    return pytest.importorskip("transformers", reason="needs transformers")


class Sound(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).audio_values


@torch.no_grad()
def test_encodec():
    """Its convolutions hold strides and paddings as buffers, and branch on them."""
    torch.manual_seed(0)
    model, x = encodec()
    model = Sound(model).eval()
    program = export(model, (x,), {}, None)
    for given in (x, x.flip(-1)):
        assert_same(program.module()(given), model(given), 1e-4, 1e-5)


MIMI = {
    **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
    **{"intermediate_size": 32, "sliding_window": 5, "num_filters": 4, "upsampling_ratios": [4, 2]},
    **{"codebook_dim": 16, "codebook_size": 32, "max_position_embeddings": 128},
    **{"vector_quantization_hidden_dimension": 16, "num_quantizers": 3, "num_semantic_quantizers": 1},
    **{"upsample_groups": 32, "layer_scale_initial_scale": 1.0},
}


class Reconstructed(nn.Module):
    """A sound from the codes that a codec has for it."""

    def __init__(self, codec):
        super().__init__()
        self.codec = codec

    def forward(self, sound):
        return self.codec.decode(self.codec.encode(sound, num_quantizers=3).audio_codes).audio_values


def test_mimi_is_one_engine_with_windows():
    torch.manual_seed(0)
    codec = transformers().AutoModel.from_config(transformers().AutoConfig.for_model("mimi", **MIMI)).eval()
    for name, buffer in codec.named_buffers():
        if name.endswith("embed_sum"):  # codes whose vectors are all 0 otherwise
            buffer.normal_()
    model, sound = Reconstructed(codec).eval(), torch.randn(1, 1, 331)
    with interpreted(engines=True):
        compiled = ahead(model, (sound,))
        assert compiled.plugin_counts() == {"rope": 2, "window_attention": 2}
        assert_same(compiled(sound), model(sound), rtol=1e-3, atol=1e-4)


def made(kind, name, config, **settings):
    """A part of a model of transformers."""
    package = pytest.importorskip(f"transformers.models.{kind}.modeling_{kind}")
    if not hasattr(package, name):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    return getattr(package, name)._from_config(getattr(package, config)(**settings), attn_implementation="sdpa")


class OfOneSize(nn.Module):
    """A vision encoder of Qwen's, for images of one size."""

    def __init__(self, model, grid):
        super().__init__()
        self.model = model
        self.grid = grid

    def forward(self, patches):
        return self.model(patches, grid_thw=torch.tensor(self.grid))[0]


ENCODERS = {
    "qwen2_vl": ("Qwen2VisionTransformerPretrainedModel", "Qwen2VLVisionConfig", {"embed_dim": 32}),
    "qwen2_5_vl": (
        "Qwen2_5_VisionTransformerPretrainedModel",
        "Qwen2_5_VLVisionConfig",
        {"out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [1], "intermediate_size": 32},
    ),
    "qwen3_vl": (
        "Qwen3VLVisionModel",
        "Qwen3VLVisionConfig",
        {"out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 16, "patch_size": 14},
    ),
    "glm4v": ("Glm4vVisionModel", "Glm4vVisionConfig", {"out_hidden_size": 32, "image_size": 56}),
}


@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_vision_encoders_with_images_of_one_size(kind):
    """Of two images in a row each attends to itself; windows of 4 x 4 patches, Qwen2.5-VL's, are cut at the edges."""
    name, config, settings = ENCODERS[kind]
    encoder = made(kind, name, config, **{"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 14, **settings})
    grid = [[1, 12, 16], [1, 10, 8]]
    model, patches = OfOneSize(encoder, grid).eval(), torch.randn(272, 3 * 2 * 14 * 14)
    with interpreted():
        compiled = ahead(model, (patches,))
        assert_same(compiled(patches), model(patches), 1e-3, 1e-4)
    assert compiled.plugin_counts() == {"rope": 2, "window_attention": 2}
    assert len(bridge.report(compiled).engines) == 1


class OfOneLength(nn.Module):
    """An encoder of sound that is cut into chunks, the last one shorter."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        return self.model(features, feature_lens=torch.tensor([230, 170])).last_hidden_state


@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("qwen2_5_omni", "Qwen2_5OmniAudioEncoder", {}),
        ("qwen3_omni_moe", "Qwen3OmniMoeAudioEncoder", {"downsample_hidden_size": 8, "n_window_infer": 200}),
    ],
)
@torch.no_grad()
def test_encoders_of_sound_of_one_length(kind, name, more):
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "output_dim": 16}
    more = {"num_mel_bins": 32, "n_window": 50, "max_source_positions": 100, **more}
    model = OfOneLength(made(kind, name, f"{name}Config", **sizes, **more)).eval()
    features = torch.randn(32, 400)
    with interpreted():
        compiled = ahead(model, (features,))
        assert_same(compiled(features), model(features), 1e-3, 1e-4)
    assert compiled.plugin_counts() == {"window_attention": 2}
    assert len(bridge.report(compiled).engines) == 1
