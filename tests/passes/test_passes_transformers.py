"""Unmodified models of transformers, small and with random weights: the passes find their ops in each."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import bridge
from bridge.errors import EngineError, EngineInputError
from bridge.graph.capture import export
from bridge.passes import pass_names, rewrite

transformers = pytest.importorskip("transformers", reason="needs transformers")

ROPE = torch.ops.bridge.rope.default
VOCABULARY = 128
SMALL = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
MLA = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "head_dim": 8, "q_lora_rank": 16}
MLA |= {"kv_lora_rank": 16, "num_key_value_heads": 4}
# Type, settings of its own, and how its rotary embeddings are called.
MODELS = [
    ("llama", {"num_hidden_layers": 2}, "half-split, bhsd"),
    ("mistral", {}, "half-split, bhsd"),
    ("qwen2", {}, "half-split, bhsd"),
    ("qwen3", {}, "half-split, bhsd"),
    ("gemma", {}, "half-split, bhsd"),
    ("gemma2", {}, "half-split, bhsd"),
    ("gemma3_text", {}, "half-split, bhsd"),
    ("phi", {}, "half-split, 8 of 16 lanes, bhsd"),
    ("gpt_neox", {}, "half-split, 4 of 16 lanes, bhsd"),
    ("gptj", {"rotary_dim": 8, "n_embd": 64, "n_head": 4}, "interleaved, 8 of 16 lanes, bshd"),
    ("cohere", {}, "interleaved, bhsd"),
    ("glm", {}, "interleaved, 8 of 16 lanes, bhsd"),
    ("llama4_text", {}, "interleaved, bshd"),  # complex numbers
    ("deepseek_v3", MLA, "interleaved, regrouped, bhsd"),
    ("nanochat", {}, "half-split, bhsd"),  # by the angles' negatives
]


def without_mask(module, query, key, value, mask, scaling=None, **_):
    """Causal attention; transformers makes no mask for a function that it does not know, which saves most of the time
    of an export."""
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return attended.transpose(1, 2), None


transformers.AttentionInterface.register("without_mask", without_mask)


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids, use_cache=False).logits


def build(kind, settings, dtype):
    """A model; Llama and GPT-J with their own attention, mask and all."""
    torch.manual_seed(0)
    attention = {} if kind in ("llama", "gptj") else {"attn_implementation": "without_mask"}
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **attention, **settings})
    return Logits(transformers.AutoModelForCausalLM.from_config(config)).to(dtype).eval()


def tokens(*shape):
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(sum(shape)))


SHAPES = {"input_ids": {0: Dim("batch", min=1, max=4), 1: Dim("length", min=1, max=64)}}


@pytest.mark.parametrize(("kind", "settings", "what"), MODELS)
@torch.no_grad()
def test_every_layer_is_found(kind, settings, what):
    model = build(kind, settings, torch.float32)
    program = export(model, (tokens(2, 7),), {}, SHAPES)
    found, outcomes = rewrite(program, pass_names(True))
    layers = model.model.config.num_hidden_layers
    assert len(found.graph.find_nodes(op="call_function", target=ROPE)) == layers
    outcomes = [outcome for outcome in outcomes if outcome.name == "rope"]
    assert [outcome.what for outcome in outcomes] == [f"bridge.rope of queries and keys, {what}"] * layers
    assert all(f"modeling_{kind.removesuffix('_text')}.py" in outcome.line for outcome in outcomes)
    again = found.module(check_guards=False)
    for shape in [(1, 1), (3, 12)]:
        given = tokens(*shape)
        torch.testing.assert_close(again(given), model(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kind", "settings", "what"), [MODELS[11]])
@torch.no_grad()
def test_reduced_precision(kind, settings, what, dtype):
    """As close to the model in float32 as the model itself is."""
    model = build(kind, settings, dtype)
    found, _ = rewrite(export(model, (tokens(2, 7),), {}, SHAPES), pass_names(True))
    given = tokens(3, 12)
    exact = build(kind, settings, torch.float32)(given)
    rounded, ours = model(given).float(), found.module(check_guards=False)(given).float()
    assert (ours - exact).abs().max() <= 2 * (rounded - exact).abs().max() + 1e-4


ENGINES = [MODELS[0], MODELS[3], MODELS[8]]


@pytest.mark.parametrize(("kind", "settings", "what"), ENGINES)
def test_one_engine(kind, settings, what):
    model = build(kind, settings | {"num_hidden_layers": 2}, torch.float16)
    compiled = bridge.compile(model, (tokens(2, 7),), dynamic_shapes=SHAPES, target="sm86")
    assert compiled.plugin_counts() == {"rope": 2}
    rows = [row["what"] for row in bridge.report(compiled).passes if row["pass"] == "rope"]
    assert rows == [f"bridge.rope of queries and keys, {what}"] * 2


@pytest.mark.parametrize(("kind", "settings", "what"), ENGINES)
def test_torch_compile(kind, settings, what):
    torch._dynamo.reset()
    model = build(kind, settings | {"num_hidden_layers": 2}, torch.float16)
    compiled = torch.compile(model, backend="bridge", dynamic=True, options={"target": "sm86"})
    with contextlib.suppress(EngineError, EngineInputError), torch.no_grad():  # built for another GPU, if there is one
        compiled(tokens(2, 7))
    report = bridge.report(compiled)
    assert len(report.engines) == 1 and report.plugin_counts() == {"rope": 2} and report.graph_breaks == []
    assert [row["replaced"] for row in report.passes if row["pass"] == "rope"] == [True, True]


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("kind", "settings", "what"), [*ENGINES, MODELS[9], MODELS[11]])
@torch.no_grad()
def test_engine_against_eager(kind, settings, what, dtype, device):
    model = build(kind, settings, dtype).to(device)
    compiled = bridge.compile(model, (tokens(2, 7).to(device),), dynamic_shapes=SHAPES)
    for shape in [(1, 1), (3, 12), (4, 64)]:
        given = tokens(*shape).to(device)
        expected, actual = model(given).float(), compiled(given).float()
        tolerance = 2e-3 if dtype == torch.float32 else 2e-2
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max(), shape
