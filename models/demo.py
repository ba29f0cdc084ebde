"""Builds the three models' engines for a target GPU, which need not be here, and prints what came of it."""

import argparse
import sys
import time
from pathlib import Path

import llama
import relu_net
import resnet_dcn
import torch
from common import compare

import bridge

# Model, plugin layers that its engine must have, flags.
MODELS = (
    (relu_net, {"relu": 3}, []),
    (resnet_dcn, {"deform_conv2d_fused": 13}, []),
    (llama, {"rope": 4}, ["--layers", "4"]),
)
HEADER = ("model", "parameters", "engines", "plugin layers", "engine size", "build time", "dynamic", "against eager")


def row(module: object, expected: dict, flags: list[str], target: str | None, folder: Path) -> tuple[str, ...]:
    """Builds one model's engine, saves it and reads it back. SystemExit when the engine is not as expected."""
    model, args, kwargs, dynamic_shapes = module.bridge_model(flags)
    start = time.monotonic()
    compiled = bridge.compile(model, args, kwargs, dynamic_shapes=dynamic_shapes, target=target, cache=False)
    seconds = time.monotonic() - start
    if compiled.plugin_counts() != expected:
        sys.exit(f"{module.__name__}: plugin layers {dict(compiled.plugin_counts())}, expected {expected}")
    path = folder / f"{module.__name__}.engine"
    compiled.save(path)
    loaded = bridge.load(path)
    if loaded.engine != compiled.engine:
        sys.exit(f"{path} does not hold what was saved")
    dynamic = "; ".join(f"{s.name} {list(s.min)} to {list(s.max)}" for s in loaded.inputs)
    difference = f"{compare(model, loaded, args):.1e}" if torch.cuda.is_available() else "no GPU here"
    plugins = ", ".join(f"{count} {name}" for name, count in sorted(compiled.plugin_counts().items()))
    parameters = sum(p.numel() for p in model.parameters())
    size = f"{len(compiled.engine) / 2**20:.1f} MiB"
    return (module.__name__, f"{parameters:,}", "1", plugins, size, f"{seconds:.1f} s", dynamic, difference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default=None if torch.cuda.is_available() else "sm86")
    parser.add_argument("--folder", type=Path, default=Path("build/engines"), help="where the engines are saved")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"bridge {bridge.__version__}: target {options.target or 'the GPU of this machine'}")
    rows = [HEADER]
    for module, expected, flags in MODELS:
        print(f"building {module.__name__} ...", flush=True)
        rows.append(row(module, expected, flags, options.target, options.folder))
    widths = [max(len(line[i]) for line in rows) for i in range(len(HEADER))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
