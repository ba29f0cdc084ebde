"""transformers' Gemma 3, any size by flags: token ids [B, S] to the last token's logits [B, 1, vocabulary].

    python models/gemma3.py --target sm86 --layers 6 -o gemma3.engine

Five of six layers see a sliding window of tokens, the sixth all earlier ones. The model is transformers' own, masks
included; the passes "rope" and "window_attention" find its rotary embeddings and windows.
"""

import argparse

import causal_lm
from common import finish
from torch import nn
from transformers import Gemma3TextConfig

# For `bridge zoo`.
ZOO = [
    {
        "small": "--layers 2 --hidden 64 --head-dim 16 --intermediate 96 --heads 4 --vocabulary 128 --window 16",
        "full": "--layers 26 --hidden 1152 --head-dim 256 --intermediate 6912 --heads 4 --vocabulary 262144"
        " --window 512 --batch 2 --max-batch 2 --length 8192 --max-length 16384",
        "about": "Gemma 3 1B's sizes",
        "rank": 13,
    }
]


def parser() -> argparse.ArgumentParser:
    return causal_lm.parser(__doc__, kv_heads=1, head_dim=64, window=128)


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/gemma3.py`."""
    options = parser().parse_args(argv)
    own = {"num_key_value_heads": options.kv_heads, "head_dim": options.head_dim, "sliding_window": options.window}
    config = Gemma3TextConfig(**own, query_pre_attn_scalar=options.head_dim, **causal_lm.sizes(options))
    return causal_lm.example(config, options, "sdpa", kept=1)


if __name__ == "__main__":
    finish(bridge_model, parser())
