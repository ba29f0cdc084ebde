"""Unmodified models of more families of transformers, small and with random weights, down to the network's numbers."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from test_passes_transformers import ROPE, SMALL, build, tokens
from torch import nn
from torch.export import Dim

from bridge.graph.capture import export
from bridge.passes import pass_names, rewrite

transformers = pytest.importorskip("transformers", reason="needs transformers")


class Text(nn.Module):
    """The text model of one that sees, whose positions have three axes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, embeddings, positions):
        return self.model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state


def embedded(batch, length):
    """embeddings [B, S, hidden] and positions [3, B, S]."""
    generator = torch.Generator().manual_seed(batch * length)
    steps = torch.arange(1, 4)[:, None, None]
    return torch.randn(batch, length, 64, generator=generator), steps * torch.arange(length).expand(3, batch, length)


def multimodal(kind, sections):
    """Qwen's text models with sections of the head's pairs for time, height and width."""
    torch.manual_seed(0)
    package = pytest.importorskip(f"transformers.models.{kind}.modeling_{kind}")
    names = {"qwen3_vl": "Qwen3VLText", "qwen2_5_vl": "Qwen2_5_VLText"}
    if not hasattr(package, f"{names[kind]}Model"):
        pytest.skip(f"this transformers has no {names[kind]}Model")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], **sections}
    config = getattr(package, f"{names[kind]}Config")
    settings = {**SMALL, "attn_implementation": "without_mask", "rope_parameters": rope}
    return Text(getattr(package, f"{names[kind]}Model")(config(**settings))).eval()


BATCH, LENGTH = Dim("batch", min=1, max=4), Dim("length", min=1, max=64)
SHAPES = {"embeddings": {0: BATCH, 1: LENGTH}, "positions": {1: BATCH, 2: LENGTH}}


@pytest.mark.parametrize(("kind", "sections"), [("qwen3_vl", {"mrope_interleaved": True}), ("qwen2_5_vl", {})])
@torch.no_grad()
def test_positions_of_three_axes(kind, sections):
    model = multimodal(kind, sections)
    found, (outcome,) = rewrite(export(model, embedded(2, 7), {}, SHAPES), pass_names(True))
    assert outcome.what == "bridge.rope of queries and keys, half-split, bhsd" and kind in outcome.line
    again = found.module(check_guards=False)
    for shape in [(1, 1), (3, 12)]:
        torch.testing.assert_close(again(*embedded(*shape)), model(*embedded(*shape)), rtol=1e-5, atol=1e-5)
    if kind != "qwen3_vl":  # its network differs in the tables alone
        return
    with interpreted():
        compiled = ahead(model, embedded(2, 7), SHAPES)
        assert compiled.plugin_counts() == {"rope": 1}
        for shape in [(2, 7), (3, 12)]:
            assert_same(compiled(*embedded(*shape)), model(*embedded(*shape)), 1e-4, 1e-5)


FAMILIES = [
    ("stablelm", "half-split, 4 of 16 lanes"),
    ("ernie4_5", "interleaved"),
    ("glm4", "interleaved, 8 of 16 lanes"),
]


@pytest.mark.parametrize(("kind", "what"), FAMILIES)
@torch.no_grad()
def test_a_network_of_every_family(kind, what):
    model, given = build(kind, {}, torch.float32), (tokens(2, 7),)
    found, (outcome,) = rewrite(export(model, given, {}, None), pass_names(True))
    assert outcome.what == f"bridge.rope of queries and keys, {what}, bhsd", outcome
    assert len(found.graph.find_nodes(op="call_function", target=ROPE)) == 1
    with interpreted():
        assert_same(ahead(model, given)(*given), model(*given), 1e-4, 1e-5)


CONFORMER = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32},
    **{"feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 7, "position_embeddings_type": "rotary"},
}


class Speech(nn.Module):
    """Features [B, S, 16] to hidden states."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        return self.model(features).last_hidden_state


@torch.no_grad()
def test_heads_behind_the_sequence_and_the_batch():
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("wav2vec2-bert", **CONFORMER)
    model, given = Speech(transformers.AutoModel.from_config(config)).eval(), torch.randn(2, 12, 16)
    with interpreted():
        compiled = ahead(model, (given,))
        assert compiled.plugin_counts() == {"rope": 2}
        assert_same(compiled(given), model(given), 1e-4, 1e-5)
