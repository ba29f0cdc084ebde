"""transformers' Llama, any size by flags: token ids [B, S] to logits [B, S, vocabulary], dynamic batch and length.

    python models/llama.py --target sm86 --layers 4 -o llama.engine

The model is transformers' own; the pass "rope" finds its rotary embeddings.
"""

import argparse

import causal_lm
from common import finish
from torch import nn
from transformers import LlamaConfig

# For `bridge zoo`.
ZOO = [
    {
        "small": "--layers 2 --hidden 64 --intermediate 96 --heads 4 --vocabulary 128",
        "full": "--layers 22 --hidden 2048 --intermediate 5632 --heads 32 --kv-heads 4 --vocabulary 32000 --batch 4"
        " --length 512 --max-length 2048",
        "about": "TinyLlama's sizes",
        "rank": 1,
    }
]


def parser() -> argparse.ArgumentParser:
    return causal_lm.parser(__doc__, kv_heads=2)


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/llama.py`."""
    options = parser().parse_args(argv)
    config = LlamaConfig(num_key_value_heads=options.kv_heads, **causal_lm.sizes(options))
    return causal_lm.example(config, options)


if __name__ == "__main__":
    finish(bridge_model, parser())
