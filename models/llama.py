"""transformers' Llama, any size by flags: token ids [B, S] to logits [B, S, vocabulary], dynamic batch and length.

    python models/llama.py --target sm86 --layers 4 -o llama.engine

The model is transformers' own; the pass "rope" finds its rotary embeddings.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# transformers makes a mask for the attention functions that it knows. This is its own one under a name for which it
# makes none: attention is causal then, and the engine holds no mask of [B, 1, S, S].
ATTENTION = "sdpa_without_mask"
AttentionInterface.register(ATTENTION, sdpa_attention_forward)


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.llama = LlamaForCausalLM(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.llama(input_ids, use_cache=False).logits


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
        attn_implementation=ATTENTION,
    )
    model = load_weights(Llama(config), options).to(getattr(torch, options.dtype)).eval()
    input_ids = torch.randint(0, options.vocabulary, (2, min(64, options.max_length)))
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    length = torch.export.Dim("length", min=1, max=options.max_length)
    return model, (input_ids,), {}, {"input_ids": {0: batch, 1: length}}


if __name__ == "__main__":
    finish(bridge_model, parser())
