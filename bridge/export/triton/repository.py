"""Writes a model repository of Triton Inference Server with one model.

README.md           how to start the server, and how to ask it
NAME/config.pbtxt
NAME/1/             standard TensorRT: a deployment folder, as `bridge export --to folder` writes it
                    TensorRT-RTX: model.engine, the engine file; model.py, which runs it by bridge; manifest.json;
                    and in generated/ the libraries of generated plugins
"""

import re
import shutil
from pathlib import Path

from bridge.base.text import as_json
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineError
from bridge.export import folder as deployment
from bridge.export import manifest
from bridge.export.libraries import libraries_of
from bridge.export.options import Options
from bridge.export.triton import batches, readme
from bridge.export.triton.config import ENGINE, by_bridge, config
from bridge.export.triton.service import GENERATED
from bridge.generate.folders import DESCRIPTION

_MODEL = Path(__file__).with_name("model.py")


def check_name(name: str) -> None:
    """ValueError: a model cannot have that name, which is a folder's and a part of addresses."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} is no name of a model: it begins with a letter or digit, and has A-Z a-z 0-9 _ . -")


def write(file: EngineFile, folder: Path, options: Options) -> list[Path]:
    """Writes the repository.

    Raises:
        ValueError: the name is none of a model.
        EngineError: the server cannot serve the engine so.
        LibraryError: see libraries_of.
    """
    check_name(options.name)
    _check_servable(file, options)
    version = folder / options.name / readme.VERSION
    version.mkdir(parents=True)
    written = (_write_for_bridge if by_bridge(file) else deployment.write)(file, version, options)
    texts = {
        folder / "README.md": readme.text(file, options),
        folder / options.name / "config.pbtxt": config(file, options),
    }
    for path, content in texts.items():
        path.write_text(content, encoding="utf-8")
    return [*texts, *written]


def _check_servable(file: EngineFile, options: Options) -> None:
    reason = batches.refusal(file)
    if options.dynamic_batching and reason:
        raise EngineError(f"the server cannot join requests to this engine: {reason}; {batches.REMEDY}")
    shapes = {spec.name: spec.min for spec in file.inputs} | {spec.name: spec.shape for spec in file.outputs}
    scalars = ", ".join(name for name, shape in shapes.items() if not shape)
    if scalars and not by_bridge(file):
        raise EngineError(f"the server has no tensors without dimensions, such as {scalars}: give it one of extent 1")


def _write_for_bridge(file: EngineFile, version: Path, options: Options) -> list[Path]:
    """Libraries that are installed with a package are not copied: bridge needs the package, too."""
    file.save(version / ENGINE)
    described = version / manifest.NAME
    described.write_text(as_json(manifest.of(file, [], version / ENGINE, None)) + "\n", encoding="utf-8")
    written = [version / ENGINE, described, Path(shutil.copy(_MODEL, version / "model.py"))]
    folders = [each.path.parent for each in libraries_of(file) if (each.path.parent / DESCRIPTION).exists()]
    for number, source in enumerate(folders):
        place = version / GENERATED / str(number)
        place.mkdir(parents=True)
        paths = [source / DESCRIPTION, *source.glob("lib*_plugins.so")]
        written += [Path(shutil.copy(path, place / path.name)) for path in paths]
    return written
