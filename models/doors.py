"""The same models by all three doors: bridge.compile, torch_tensorrt.compile and torch.compile(backend="bridge").

    python models/doors.py --target sm86        # engines alone: needs no GPU
    python models/doors.py                      # on a GPU: runs ten shapes by each door too, against eager

Prints how many layers of each type each door's engine has. Exit code 1: a door made more than one engine, or another
number of plugin layers, or a result is not as close to eager as fp16 should be.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llama
import resnet_dcn
import torch
from torch import Tensor, nn

import bridge

# Model, its flags, and ten shapes of its input. torch_tensorrt converts attention only with as many key as query heads.
MODELS = {
    "llama": (
        llama,
        ["--layers", "4", "--kv-heads", "8"],
        [(2, 64), (1, 7), (4, 33), (8, 512), (3, 128), (1, 256), (8, 17), (2, 500), (5, 64), (6, 300)],
    ),
    "resnet_dcn": (resnet_dcn, [], [(batch, 3, 224, 224) for batch in (2, 1, 3, 4, 8, 5, 1, 7, 6, 2)]),
}
TOLERANCE = 2e-2  # of the largest output, fp16


@dataclass
class Door:
    """What came of one model by one door. layers: of each engine, how many there are of each type or op."""

    name: str
    layers: list[Counter[str]]
    seconds: float
    call: Callable[[Tensor], Tensor]
    report: Callable[[], bridge.Report]


def by_bridge(model: nn.Module, args: tuple, shapes: dict, target: str | None) -> Door:
    start = time.monotonic()
    compiled = bridge.compile(model, args, dynamic_shapes=shapes, target=target, cache=False)
    seconds = time.monotonic() - start
    return Door("bridge.compile", [types(compiled.layers)], seconds, compiled, lambda: bridge.report(compiled))


def by_torch_tensorrt(model: nn.Module, args: tuple, shapes: dict, target: str | None) -> Door:
    import torch_tensorrt

    start = time.monotonic()
    with bridge.cross_compile(target):
        program = torch.export.export(model, args, dynamic_shapes=shapes)
        compiled = torch_tensorrt.dynamo.compile(program, list(args), min_block_size=1)
    seconds = time.monotonic() - start
    report = bridge.report(compiled)
    layers = [types(engine.layers) for engine in report.engines]
    return Door("torch_tensorrt.compile", layers, seconds, compiled, lambda: bridge.report(compiled))


def by_torch_compile(model: nn.Module, args: tuple, shapes: dict, target: str | None) -> Door:
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="bridge", dynamic=True, options={"target": target, "cache": False})
    start = time.monotonic()
    try:
        compiled(*args)
    except bridge.errors.EngineError:
        if torch.cuda.is_available():
            raise  # without a GPU the engine is built, and cannot run
    seconds = time.monotonic() - start
    layers = [types(engine.layers) for engine in bridge.report(compiled).engines]
    return Door('torch.compile(backend="bridge")', layers, seconds, compiled, lambda: bridge.report(compiled))


def types(layers: list[dict[str, Any]]) -> Counter[str]:
    """How many layers there are of each type; a plugin layer counts under its op's name."""
    return Counter(layer["op"] or layer["type"].lower() for layer in layers)


def plugins(door: Door) -> Counter[str]:
    return Counter({name: count for layers in door.layers for name, count in layers.items() if name in bridge.OPS})


def print_inventory(name: str, doors: list[Door]) -> None:
    print(f"\n{name}")
    totals = [sum(door.layers, Counter()) for door in doors]
    rows = [("", *(door.name for door in doors))]
    rows.append(("engines", *(str(len(door.layers)) for door in doors)))
    rows.append(("seconds", *(f"{door.seconds:.1f}" for door in doors)))
    kinds = sorted(set().union(*totals), key=lambda kind: (kind not in bridge.OPS, kind))
    rows += [(f"  {kind}", *(str(total[kind]) for total in totals)) for kind in kinds]
    rows.append(("layers", *(str(total.total()) for total in totals)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def sweep(model: nn.Module, door: Door, shapes: list[tuple], example: Tensor) -> str | None:
    """Runs a door at every shape, and says how that went; returns what is wrong, if anything."""
    worst = max(difference(model, door, random_like(example, shape)) for shape in shapes)
    report = door.report()
    breaks, recompiles = len(report.graph_breaks), len(report.recompiles)
    print(f"  {door.name}: {len(shapes)} shapes, at most {worst:.1e} of the largest output from eager;", end=" ")
    print(f"engines {len(report.engines)}, graph breaks {breaks}, recompiles {recompiles}")
    if worst > TOLERANCE or breaks > 0 or recompiles > 1:
        return f"{door.name}: difference {worst:.1e}, graph breaks {breaks}, recompiles {recompiles}"
    return None


def difference(model: nn.Module, door: Door, x: Tensor) -> float:
    """From eager, relative to the largest output."""
    expected = model(x).float()
    return ((door.call(x).float() - expected).abs().max() / expected.abs().max()).item()


def random_like(example: Tensor, shape: tuple) -> Tensor:
    if example.is_floating_point():
        return torch.randn(shape, device=example.device).to(example.dtype)
    return torch.randint(0, int(example.max()) + 1, shape, device=example.device)  # token ids


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="GPU to build for, such as sm86; default: the GPU of this machine")
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], help="default: all")
    options = parser.parse_args()
    wrong = []
    for name in options.models or MODELS:
        module, flags, sizes = MODELS[name]
        model, args, _, shapes = module.bridge_model(flags)
        if torch.cuda.is_available():
            model, args = model.cuda(), tuple(arg.cuda() for arg in args)
        doors = [door(model, args, shapes, options.target) for door in (by_bridge, by_torch_tensorrt, by_torch_compile)]
        print_inventory(name, doors)
        if any(len(door.layers) != 1 or plugins(door) != plugins(doors[0]) for door in doors):
            wrong.append(f"{name}: the doors' engines differ")
        if torch.cuda.is_available() and options.target is None:
            wrong += [text for door in doors if (text := sweep(model, door, sizes, args[0]))]
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
