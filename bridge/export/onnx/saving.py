"""Writes an ONNX file, with its weights beside it where it would be too large for one."""

import os
from pathlib import Path
from typing import Any

from bridge.errors import EngineFileError

LARGEST = 1536 << 20
"""Bytes of weights that a file holds itself: protocol buffers end at 2 GiB, and the graph takes room, too."""


def checked(path: str | os.PathLike[str], force: bool) -> Path:
    """The path of a file that can be written. EngineFileError: it cannot, or is there already, unless `force`."""
    path = Path(path)
    if not path.name or path.is_dir():
        raise EngineFileError(f"cannot write {str(path)!r}: it names a folder; name a file, such as model.onnx")
    if not path.parent.is_dir():
        raise EngineFileError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise EngineFileError(f"cannot write {path}: the folder {path.parent} cannot be written to")
    for each in () if force else (path, weights_of(path)):
        if each.exists() or each.is_symlink():
            raise EngineFileError(
                f"{each} is there already; name another file, or replace it with force=True (--force)"
            )
    return path


def moved(staged: Path, target: Path) -> tuple[Path, ...]:
    """Puts a staged file in place, its weights first; returns the files."""
    weights, place = weights_of(staged), weights_of(target)
    if weights.exists():
        weights.replace(place)
    else:
        place.unlink(missing_ok=True)  # of the file that is replaced
    staged.replace(target)
    return (target, place) if place.exists() else (target,)


def weights_of(path: Path) -> Path:
    """The file with the weights of a file that is too large for one."""
    return path.with_name(f"{path.name}.data")


def staged(program: Any, folder: Path, name: str) -> Path:
    """Writes a torch.onnx.ONNXProgram into a folder, under the name that it will have."""
    path = folder / name
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(path, external_data=size > LARGEST)
    return path
