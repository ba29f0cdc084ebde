"""transformers' GPT-NeoX, any size by flags: token ids [B, S] to logits [B, S, vocabulary], dynamic batch and length.

    python models/gpt_neox.py --target sm86 --layers 4 -o gpt_neox.engine

Attention and MLP stand side by side, and a quarter of each head is rotated. The model is transformers' own; the pass
"rope" finds its rotary embeddings.
"""

import argparse

import causal_lm
from common import finish
from torch import nn
from transformers import GPTNeoXConfig

# For `bridge zoo`.
ZOO = [
    {
        "small": "--layers 2 --hidden 64 --intermediate 96 --heads 4 --vocabulary 128",
        "full": "--layers 24 --hidden 1024 --intermediate 4096 --heads 16 --vocabulary 50304 --batch 4 --length 512"
        " --max-length 2048",
        "about": "Pythia-410M's sizes",
        "rank": 8,
    }
]


def parser() -> argparse.ArgumentParser:
    return causal_lm.parser(__doc__)


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/gpt_neox.py`."""
    options = parser().parse_args(argv)
    return causal_lm.example(GPTNeoXConfig(**causal_lm.sizes(options)), options)


if __name__ == "__main__":
    finish(bridge_model, parser())
