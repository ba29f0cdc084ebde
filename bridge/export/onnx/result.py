"""What an export to ONNX gives: the file, what it needs, and the command that makes an engine of it."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.engine_file.contents import TensorSpec


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was written.

    path: the file. files: with the file of its weights, where they are too large for one. plugins: the number of nodes
    of each op. libraries: the plugin libraries that hold them. inputs: with the extents that each may have.
    """

    path: Path
    files: tuple[Path, ...]
    plugins: Counter[str]
    libraries: tuple[Path, ...]
    inputs: tuple[TensorSpec, ...]

    def trtexec(self) -> str:
        """The arguments with which trtexec, or TensorRT-RTX's tensorrt_rtx, builds an engine of the file."""
        dynamic = [spec for spec in self.inputs if spec.dynamic]
        return shlex.join(
            [
                f"--onnx={self.path}",
                *(f"--dynamicPlugins={library}" for library in self.libraries),
                *(f"--{bound}Shapes={_shapes(dynamic, bound)}" for bound in ("min", "opt", "max") if dynamic),
                f"--saveEngine={self.path.with_suffix('.plan')}",
            ]
        )


def _shapes(specs: Sequence[TensorSpec], bound: str) -> str:
    return ",".join(f"{spec.name}:{'x'.join(map(str, getattr(spec, bound)))}" for spec in specs)
