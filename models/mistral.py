"""transformers' Mistral, any size by flags: token ids [B, S] to logits [B, S, vocabulary], dynamic batch and length.

    python models/mistral.py --target sm86 --layers 4 -o mistral.engine

Attention sees all earlier tokens, as that of Mistral 7B since its version 0.2 does. With --window it sees the last
ones, as in version 0.1, and the logits are the last token's alone, [B, 1, vocabulary]. The model is transformers' own;
the passes "rope" and "window_attention" find its rotary embeddings and its window.
"""

import argparse

import causal_lm
from common import finish
from torch import nn
from transformers import MistralConfig

# For `bridge zoo`.
ZOO = [
    {
        "small": "--layers 2 --hidden 64 --intermediate 96 --heads 4 --vocabulary 128",
        "full": "--layers 4 --hidden 4096 --intermediate 14336 --heads 32 --kv-heads 8 --vocabulary 32768 --batch 4"
        " --length 512 --max-length 2048",
        "about": "4 of Mistral 7B's 32 layers",
        "rank": 7,
    },
    {
        "part": "window",
        "small": "--layers 2 --hidden 64 --intermediate 96 --heads 4 --vocabulary 128 --window 16",
        "full": "--layers 4 --hidden 4096 --intermediate 14336 --heads 32 --kv-heads 8 --vocabulary 32000 --batch 2"
        " --max-batch 2 --length 8192 --max-length 16384 --window 4096",
        "about": "4 of Mistral 7B v0.1's 32 layers",
        "rank": 12,
    },
]


def parser() -> argparse.ArgumentParser:
    p = causal_lm.parser(__doc__, kv_heads=2)
    p.add_argument("--window", type=int, help="how many tokens attention sees; default: all earlier ones")
    return p


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/mistral.py`."""
    options = parser().parse_args(argv)
    own = {"num_key_value_heads": options.kv_heads, "sliding_window": options.window}
    config = MistralConfig(**own, **causal_lm.sizes(options))
    return causal_lm.example(config, options, "sdpa", kept=1) if options.window else causal_lm.example(config, options)


if __name__ == "__main__":
    finish(bridge_model, parser())
