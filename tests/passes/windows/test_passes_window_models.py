"""Unmodified models of transformers with sliding windows, small and with random weights: each window is found."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import nn
from torch.export import Dim

import bridge

transformers = pytest.importorskip("transformers", reason="needs transformers")

SMALL = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"num_hidden_layers": 1, "vocab_size": 64, "max_position_embeddings": 64, "sliding_window": 5},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "query_pre_attn_scalar": 16},
}
MIXED = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
NARROW_VALUES = EXPERTS | {"n_routed_experts": 2, "moe_intermediate_size": 32, "v_head_dim": 4}
NARROW_VALUES |= {"layer_types": ["sliding_attention"]}
BIDIRECTIONAL = {"num_hidden_layers": 2, "local_attention": 8, "global_attn_every_n_layers": 2}
BIDIRECTIONAL |= {"cls_token_id": 1, "sep_token_id": 2}
FULL = "scaled_dot_product_attention, is_causal=False, without its mask"
CAUSAL = "bridge.window_attention, window_left=4, window_right=0, scale={}"
UNLIMITED = CAUSAL.replace("4", "-1", 1)
# Type, form of attention, settings of its own, and what the pass makes of each layer.
# tests/zoo has Mistral and Gemma 3.
MODELS = [
    ("qwen3", "eager", {"use_sliding_window": True, "max_window_layers": 0}, [CAUSAL.format(0.353553)]),
    ("phi3", "sdpa", {}, [CAUSAL.format(0.353553)]),
    ("gemma2", "eager", MIXED, [CAUSAL.format("0.25, softcap=50"), UNLIMITED.format("0.25, softcap=50")]),
    ("gpt_oss", "eager", EXPERTS, [CAUSAL.format("0.353553, with sinks")]),
    ("mimo_v2_flash", "eager", NARROW_VALUES, [CAUSAL.format("0.353553, with sinks")]),
    (
        *("modernbert", "sdpa", BIDIRECTIONAL),
        [FULL, "bridge.window_attention, window_left=5, window_right=5, scale=0.353553"],
    ),
]
LENGTH = Dim("length", min=1, max=64)
SHAPES = {"input_ids": {0: Dim("batch", min=1, max=4), 1: LENGTH}}


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.settings = {} if model.config.model_type == "modernbert" else {"use_cache": False}

    def forward(self, input_ids):
        return self.model(input_ids, **self.settings).logits


def build(kind, attention, settings, wrapper=Logits):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(SMALL | settings))
    kind_of_model = transformers.AutoModelForMaskedLM if kind == "modernbert" else transformers.AutoModelForCausalLM
    return wrapper(kind_of_model.from_config(config, attn_implementation=attention)).eval()


def tokens(*shape):
    return torch.randint(3, 64, shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("kind", "attention", "settings", "whats"), MODELS)
def test_every_window_is_a_plugin(kind, attention, settings, whats):
    """The network's results are eager's. gpt-oss becomes an engine, and others in tests/zoo."""
    model, given = build(kind, attention, settings), tokens(2, 9)
    dynamic = kind == "modernbert"
    with interpreted(engines=kind == "gpt_oss"):
        compiled = ahead(model, (given,), SHAPES if dynamic else None)
        for each in [given, tokens(3, 17)] if dynamic else [given]:
            assert_same(compiled(each), model(each), rtol=1e-4, atol=1e-5)
    report = bridge.report(compiled)
    assert [row["what"] for row in report.passes if row["pass"] == "window_attention"] == whats
    windows = sum("bridge.window_attention" in what for what in whats)
    assert compiled.plugin_counts() == {"window_attention": windows, "rope": model.model.config.num_hidden_layers}
    assert len(report.engines) == 1


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("row", range(len(MODELS)))
@torch.no_grad()
def test_engine_against_eager(row, device):
    model = build(*MODELS[row][:3]).to(device, torch.float16)
    compiled = bridge.compile(model, (tokens(2, 9).to(device),), dynamic_shapes=SHAPES)
    for shape in [(1, 2), (3, 12), (4, 64)]:
        given = tokens(*shape).to(device)
        expected, actual = model(given).float(), compiled(given).float()
        assert (actual - expected).abs().max() <= 2e-2 * expected.abs().max(), shape


class Padded(nn.Module):
    """With a mask [B, S] of the tokens that are no padding."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask=attention_mask, use_cache=False).logits


@pytest.mark.parametrize(("kind", "settings"), [("olmo3", MIXED), ("llama", {"num_hidden_layers": 2})])
def test_padding_before_a_sequence_reaches_no_token(kind, settings):
    model = build(kind, "sdpa", settings, Padded)
    real = torch.ones(2, 9, dtype=torch.long)
    real[1, :4] = 0
    with interpreted():
        compiled = ahead(model, (tokens(2, 9), real))
        assert_same(compiled(tokens(2, 9), real), model(tokens(2, 9), real), rtol=1e-4, atol=1e-5)


class Sound(nn.Module):
    """Qwen2.5-Omni's decoder of sound: blocks of frames see their own block, and perhaps those beside it."""

    def __init__(self):
        super().__init__()
        omni = pytest.importorskip("transformers.models.qwen2_5_omni.modeling_qwen2_5_omni")
        sizes = {"hidden_size": 32, "num_attention_heads": 2, "head_dim": 16, "mel_dim": 8, "emb_dim": 8, "enc_dim": 8}
        encoder = {"enc_channels": [16, 16, 16, 16, 48], "enc_attention_channels": 8, "enc_se_channels": 8}
        blocks = {"num_hidden_layers": 2, "block_size": 8, "look_ahead_layers": [1], "look_backward_layers": [0]}
        config = omni.Qwen2_5OmniDiTConfig(num_embeds=32, enc_emb_dim=16, **sizes, **encoder, **blocks)
        self.model = omni.Qwen2_5OmniToken2WavDiTModel(config)

    def forward(self, frames, reference, speaker, codes):
        return self.model(frames, reference, speaker, codes, torch.tensor(0.3), apply_cfg=False)


def test_blocks_of_frames_see_those_beside_them():
    torch.manual_seed(0)
    model = Sound().eval()
    frames, reference, speaker = torch.randn(1, 26, 8), torch.randn(1, 20, 8), torch.randn(1, 26, 16)
    given = (frames, reference, speaker, torch.randint(0, 30, (1, 13)))
    with interpreted():
        compiled = ahead(model, given)
        assert_same(compiled(*given), model(*given), rtol=1e-4, atol=1e-5)
    assert compiled.plugin_counts() == {"window_attention": 2, "rope": 2}
