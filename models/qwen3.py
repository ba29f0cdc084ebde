"""transformers' Qwen3, any size by flags: token ids [B, S] to logits [B, S, vocabulary], dynamic batch and length.

    python models/qwen3.py --target sm86 --layers 4 -o qwen3.engine

Queries and keys are normalised before they are rotated. The model is transformers' own; the pass "rope" finds its
rotary embeddings.
"""

import argparse

import causal_lm
from common import finish
from torch import nn
from transformers import Qwen3Config

# For `bridge zoo`.
ZOO = [
    {
        "small": "--layers 2 --hidden 64 --head-dim 16 --intermediate 96 --heads 4 --vocabulary 128",
        "full": "--layers 28 --hidden 1024 --head-dim 128 --intermediate 3072 --heads 16 --kv-heads 8"
        " --vocabulary 151936 --batch 4 --length 512 --max-length 2048",
        "about": "Qwen3-0.6B's sizes",
        "rank": 4,
    }
]


def parser() -> argparse.ArgumentParser:
    return causal_lm.parser(__doc__, kv_heads=2, head_dim=64)


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/qwen3.py`."""
    options = parser().parse_args(argv)
    own = {"num_key_value_heads": options.kv_heads, "head_dim": options.head_dim, "tie_word_embeddings": True}
    return causal_lm.example(Qwen3Config(**own, **causal_lm.sizes(options)), options)


if __name__ == "__main__":
    finish(bridge_model, parser())
