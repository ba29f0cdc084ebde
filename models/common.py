"""What every model script shares: flags, weights, and what happens after the model is built."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import bridge

DTYPES = ("float32", "float16", "bfloat16")
# Largest difference from eager PyTorch, as a fraction of the largest output: a few roundings a layer.
TOLERANCE = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 1e-1}


def add_arguments(parser: argparse.ArgumentParser, dtype: str) -> argparse.ArgumentParser:
    """Adds the flags that all models have."""
    parser.add_argument("--weights", metavar="FILE", help="a state_dict saved by torch.save; random weights without it")
    parser.add_argument("--dtype", choices=DTYPES, default=dtype)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--target", help="GPU to build for, such as sm86; default: the GPU of this machine")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to save the engine")
    return parser


def load_weights(model: nn.Module, options: argparse.Namespace) -> nn.Module:
    """The model with the weights of --weights, if given."""
    if options.weights:
        model.load_state_dict(torch.load(options.weights, map_location="cpu", weights_only=True))
    return model


def finish(build: Callable[[list[str]], tuple], parser: argparse.ArgumentParser) -> None:
    """Compiles the model, says what is in the engine, saves it, and compares it with eager where it can run."""
    options = parser.parse_args()
    model, args, kwargs, dynamic_shapes = build(sys.argv[1:])
    try:
        compiled = bridge.compile(model, args, kwargs, dynamic_shapes=dynamic_shapes, target=options.target)
        print(compiled.explain())
        if options.output:
            compiled.save(options.output)
            print(f"saved {options.output}")
        if torch.cuda.is_available():
            print(f"largest difference from eager: {compare(model, compiled, args):.2e} of the largest output")
    except bridge.BridgeError as error:
        sys.exit(f"{type(error).__name__}: {error}")


@torch.no_grad()
def compare(model: nn.Module, compiled: Any, args: tuple) -> float:
    """Largest difference between the engine and eager on this GPU, as a fraction of the largest output."""
    model, args = model.cuda(), tuple(arg.cuda() for arg in args)
    expected, actual = model(*args).float(), compiled(*args).float()
    return ((actual - expected).abs().max() / expected.abs().max()).item()
