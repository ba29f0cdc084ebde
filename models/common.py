"""What every model script shares: flags, weights, and what happens after the model is built."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import bridge
from bridge.bench.model_lowerings import largest_error
from bridge.zoo.table import BACKENDS

DTYPES = ("float32", "float16", "bfloat16")
# Largest difference from eager PyTorch, as a fraction of the largest output: a few roundings a layer.
TOLERANCE = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 1e-1}


def add_arguments(parser: argparse.ArgumentParser, dtype: str) -> argparse.ArgumentParser:
    """Adds the flags that all models have."""
    parser.add_argument(
        "--weights", metavar="FILE", help="a state_dict saved by torch.save, or safetensors; default: random"
    )
    parser.add_argument("--dtype", choices=DTYPES, default=dtype)
    parser.add_argument(
        "--batch", type=int, default=2, help="of the example, for which the engine is tuned; 2 or more if dynamic"
    )
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument(
        "--fixed", action="store_true", help="the example's shapes alone, for which TensorRT has faster kernels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--target", help="GPU to build for, such as sm86; default: the GPU of this machine")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to save the engine")
    parser.add_argument(
        "--bench", action="store_true", help="also measure it beside eager, Inductor and torch_tensorrt"
    )
    parser.add_argument(
        "--ways", nargs="+", choices=BACKENDS, default=[*BACKENDS], help="what --bench measures; default: all"
    )
    return parser


def shapes(options: argparse.Namespace, dynamic: dict[str, Any]) -> dict[str, Any] | None:
    """The dynamic shapes of the model; none with --fixed."""
    return None if options.fixed else dynamic


def load_weights(model: nn.Module, options: argparse.Namespace) -> nn.Module:
    """The model with the weights of --weights, if given. A weight that is another one's too needs no name of its own.

    ValueError: the file lacks a weight, or has one that the model does not have.
    """
    if options.weights:
        missing, unexpected = model.load_state_dict(read_weights(Path(options.weights)), strict=False)
        names = model.state_dict()
        loaded = {tensor.data_ptr() for name, tensor in names.items() if name not in missing}
        missing = [name for name in missing if names[name].data_ptr() not in loaded]
        for what, keys in (("lacks", missing), ("has what the model has not", unexpected)):
            if keys:
                raise ValueError(f"{options.weights} {what}: {len(keys)} tensors, such as {keys[0]}; the sizes differ?")
    return model


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, by name."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def compile_and_save(build: Callable[[list[str]], tuple], options: argparse.Namespace) -> tuple[nn.Module, tuple, Any]:
    """The model, its arguments and what it was compiled to; says what is in the engine, and saves it where asked."""
    model, args, kwargs, dynamic_shapes = build(sys.argv[1:])
    compiled = bridge.compile(model, args, kwargs, dynamic_shapes=dynamic_shapes, target=options.target)
    print(compiled.explain())
    if options.output:
        compiled.save(options.output)
        print(f"saved {options.output}")
    return model, args, compiled


def finish(build: Callable[[list[str]], tuple], parser: argparse.ArgumentParser) -> None:
    """Compiles the model, says what is in the engine, saves it, and compares it with eager where it can run."""
    options = parser.parse_args()
    try:
        if options.bench:
            bench(options)
            return
        model, args, compiled = compile_and_save(build, options)
        if torch.cuda.is_available() and options.target is None:
            print(f"largest difference from eager: {compare(model, compiled, args):.2e} of the largest output")
    except bridge.BridgeError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def bench(options: argparse.Namespace) -> None:
    """Measures the script that runs, as `bridge zoo` does, and prints the row."""
    from bridge.zoo import entries, measure, run, table

    entry = entries.Entry(Path(sys.argv[0]).resolve())
    row = measure.measure(entry, sys.argv[1:], options.target, lambda so_far: None, backends=options.ways)
    print(table.text({**run.environment_here(), "full": True, "rows": [row]}))


@torch.no_grad()
def compare(model: nn.Module, compiled: Any, args: tuple) -> float:
    """Largest difference between the engine and eager on this GPU, as a fraction of each output's largest value."""
    model, args = model.cuda(), pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), args)
    return largest_error(compiled(*args), model(*args))
