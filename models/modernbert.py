"""transformers' ModernBERT, any size by flags: token ids [B, S] to hidden states [B, S, hidden].

    python models/modernbert.py --target sm86 --layers 6 -o modernbert.engine

Batch and length are dynamic. Two of three layers see a window of tokens on either side, the third all of them. The
model is transformers' own, masks included; the passes "rope" and "window_attention" find its rotary embeddings and
windows.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights, shapes
from torch import Tensor, nn
from transformers import ModernBertConfig, ModernBertModel

# For `bridge zoo`.
ZOO = [
    {
        "small": "--layers 3 --hidden 64 --intermediate 96 --heads 4 --vocabulary 128 --window 16",
        "full": "--batch 2 --max-batch 2 --length 8192 --max-length 16384",
        "about": "ModernBERT-base's sizes",
        "rank": 14,
    }
]


class Encoder(nn.Module):
    """Token ids [B, S] without padding to hidden states [B, S, hidden]."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.model = ModernBertModel._from_config(config, attn_implementation="sdpa")

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).last_hidden_state


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=22)
    p.add_argument("--hidden", type=int, default=768)
    p.add_argument("--intermediate", type=int, default=1152)
    p.add_argument("--heads", type=int, default=12)
    p.add_argument("--window", type=int, default=128, help="of the local layers, half of it on either side")
    p.add_argument("--vocabulary", type=int, default=50368)
    p.add_argument("--max-length", type=int, default=512)
    p.add_argument("--length", type=int, default=64, help="of the example")
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/modernbert.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    config = ModernBertConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        max_position_embeddings=options.max_length,
        local_attention=options.window,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 0),
    )
    model = Encoder(config)
    load_weights(model.model, options)
    model = model.to(getattr(torch, options.dtype)).eval()
    input_ids = torch.randint(0, options.vocabulary, (options.batch, min(options.length, options.max_length)))
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    length = torch.export.Dim("length", min=1, max=options.max_length)
    return model, (input_ids,), {}, shapes(options, {"input_ids": {0: batch, 1: length}})


if __name__ == "__main__":
    finish(bridge_model, parser())
