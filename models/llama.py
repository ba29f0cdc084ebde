"""transformers' Llama, any size by flags: token ids [B, S] to logits [B, S, vocabulary], dynamic batch and length.

    python models/llama.py --target sm86 --layers 4 -o llama.engine

The layers are transformers' own; their attention calls bridge.rope and scaled_dot_product_attention.
"""

import argparse

import torch
import torch.nn.functional as F
from common import add_arguments, finish, load_weights
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

import bridge


class RopeAttention(LlamaAttention):
    """Causal grouped-query attention; queries and keys are rotated in one bridge op."""

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: object
    ) -> tuple[Tensor, None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(hidden_states).view(heads).transpose(1, 2) for project in projections)  # [B, H, S, D]
        q, k = bridge.rope(q, k, *position_embeddings)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scaling, enable_gqa=True)
        return self.o_proj(attended.transpose(1, 2).flatten(2)), None


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.llama = LlamaForCausalLM(config)
        for layer in self.llama.model.layers:
            layer.self_attn.__class__ = RopeAttention

    def forward(self, input_ids: Tensor) -> Tensor:
        decoder = self.llama.model
        hidden = decoder.embed_tokens(input_ids)  # [B, S, hidden]
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        tables = decoder.rotary_emb(hidden, positions)  # cos and sin, each [1, S, head_dim]
        for layer in decoder.layers:
            hidden = layer(hidden, position_embeddings=tables)
        return self.llama.lm_head(decoder.norm(hidden))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--hidden", type=int, default=512)
    p.add_argument("--intermediate", type=int, default=1376)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--kv-heads", type=int, default=2)
    p.add_argument("--vocabulary", type=int, default=8192)
    p.add_argument("--max-length", type=int, default=512)
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/llama.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    config = LlamaConfig(
        num_hidden_layers=options.layers,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        vocab_size=options.vocabulary,
        max_position_embeddings=options.max_length,
    )
    model = load_weights(Llama(config), options).to(getattr(torch, options.dtype)).eval()
    input_ids = torch.randint(0, options.vocabulary, (2, min(64, options.max_length)))
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    length = torch.export.Dim("length", min=1, max=options.max_length)
    return model, (input_ids,), {}, {"input_ids": {0: batch, 1: length}}


if __name__ == "__main__":
    finish(bridge_model, parser())
