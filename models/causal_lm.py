"""What the scripts of transformers' causal language models share: the model behind one interface, flags, shapes."""

import argparse

import torch
from common import add_arguments, load_weights, shapes
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# transformers makes a mask for the attention functions that it knows. This is its own one under a name for which it
# makes none: attention is causal then, and the engine holds no mask of [B, 1, S, S].
ATTENTION = "sdpa_without_mask"
AttentionInterface.register(ATTENTION, sdpa_attention_forward)


class CausalLM(nn.Module):
    """A model of transformers: token ids [B, S] to logits [B, S, vocabulary], or of the last `kept` tokens."""

    def __init__(self, config: PretrainedConfig, attention: str = ATTENTION, kept: int = 0) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        self.kept = kept  # 0: all

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids, use_cache=False, logits_to_keep=self.kept).logits


def parser(description: str | None, **defaults: int) -> argparse.ArgumentParser:
    """The flags of all of them. defaults: for kv_heads, of models that have fewer key than query heads."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--hidden", type=int, default=512)
    p.add_argument("--intermediate", type=int, default=1376)
    p.add_argument("--heads", type=int, default=8)
    for name, value in defaults.items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    p.add_argument("--vocabulary", type=int, default=8192)
    p.add_argument("--max-length", type=int, default=512)
    p.add_argument("--length", type=int, default=64, help="of the example")
    return add_arguments(p, dtype="float16")


def sizes(options: argparse.Namespace) -> dict[str, int]:
    """The settings that these models' configurations have in common."""
    return {
        "num_hidden_layers": options.layers,
        "hidden_size": options.hidden,
        "intermediate_size": options.intermediate,
        "num_attention_heads": options.heads,
        "vocab_size": options.vocabulary,
        "max_position_embeddings": options.max_length,
    }


def example(
    config: PretrainedConfig, options: argparse.Namespace, attention: str = ATTENTION, kept: int = 0
) -> tuple[nn.Module, tuple, dict, dict | None]:
    """What bridge_model returns: batch and length are dynamic."""
    torch.manual_seed(options.seed)
    model = CausalLM(config, attention, kept)
    load_weights(model.model, options)
    model = model.to(getattr(torch, options.dtype)).eval()
    input_ids = torch.randint(0, options.vocabulary, (options.batch, min(options.length, options.max_length)))
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    length = torch.export.Dim("length", min=1, max=options.max_length)
    return model, (input_ids,), {}, shapes(options, {"input_ids": {0: batch, 1: length}})
