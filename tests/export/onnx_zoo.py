"""The zoo's small models as ONNX files: a row for each, and exit code 1 where one is wrong.

    python tests/export/onnx_zoo.py [NAME ...]      in some minutes; NAME: a part of a model's name

Each file is exported and imported by TensorRT's parser; its plugin nodes are those of bridge.compile's engine; an
engine for sm86 is built of it, and onnx.reference gives what the model gives.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import onnx_files
import torch
from oracle import interpreted
from torch.utils import _pytree as pytree

import bridge
from bridge.doors import model_file
from bridge.zoo import entries
from bridge.zoo.subject import largest_difference

TOLERANCES = {torch.float32: 2e-3, torch.float16: 2e-2}  # fractions of the largest element


def checked(entry: entries.Entry, folder: Path) -> str:
    """The plugin nodes of a model's file. AssertionError, BridgeError: it is wrong."""
    model = model_file.load(str(entry.path), entry.small)
    arguments, settings = (model.model, model.args, model.kwargs), {"dynamic_shapes": model.dynamic_shapes}
    file = bridge.export_onnx(*arguments, **settings, path=folder / "model.onnx", force=True, target="sm86")
    with interpreted():
        compiled = bridge.compile(*arguments, **settings, target="sm86", cache=False)
    assert onnx_files.plugin_nodes(file.path) == onnx_files.plugin_layers(compiled.file), "other plugin layers"
    onnx_files.Imported(file).engine()
    dtype = pytree.tree_leaves(model.model.state_dict())[0].dtype
    with torch.no_grad():
        expected = onnx_files.tensors_in(model.model(*model.args, **model.kwargs))
    difference = largest_difference(onnx_files.run(file.path, model.args, model.kwargs), expected, entry.unordered)
    assert difference < TOLERANCES[dtype], f"onnx.reference differs by {difference:.2g} of the largest element"
    return ", ".join(f"{count} {op}" for op, count in file.plugins.items()) or "no plugin"


class LogFactorial(torch.nn.Module):
    """What ONNX lacks, and Inductor writes a kernel for."""

    def forward(self, x):
        return torch.lgamma(x.abs() + 1)


def generated(folder: Path) -> str:
    """The generated plugin of a model's file. AssertionError, BridgeError: it is wrong."""
    model, shapes = LogFactorial().eval(), ({0: torch.export.Dim("batch", min=1, max=8)},)
    settings = {"dynamic_shapes": shapes, "path": folder / "model.onnx", "target": "sm86", "generate": True}
    file = bridge.export_onnx(model, (torch.randn(2, 4),), **settings)
    onnx_files.Imported(file).engine()
    onnx_files.assert_equal_to(model, file.path, (torch.randn(5, 4),))
    return ", ".join(file.plugins)


def main() -> int:
    checks = {entry.name: partial(checked, entry) for entry in entries.find(entries.folder(), sys.argv[1:] or [""])}
    failed = 0
    for name, check in [*checks.items(), ("generated", generated)]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"{name}: {check(Path(folder))}", flush=True)
            except Exception as error:
                failed += 1
                print(f"{name}: {type(error).__name__}: {error}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
