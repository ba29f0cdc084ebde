"""Exports a deployment folder: the plan, its plugin libraries, a manifest and the commands to run it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.base.text import as_json
from bridge.engine_file.contents import EngineFile
from bridge.export import manifest, plan, readme
from bridge.export.libraries import FOLDER, PluginLibrary, libraries_of
from bridge.export.native import autoload_library


def write(file: EngineFile, folder: Path, options: Any) -> list[Path]:
    """Writes model.plan, plugins/, manifest.json and README.md. LibraryError: see libraries_of."""
    libraries = libraries_of(file)
    written = plan.write(file, folder, options)
    autoload = autoload_library() if libraries else None
    written += _copy_libraries(libraries, autoload, folder / FOLDER)
    described = manifest.of(file, libraries, written[0], autoload)
    texts = {manifest.NAME: as_json(described) + "\n", "README.md": readme.text(described)}
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
        written.append(folder / name)
    return written


def _copy_libraries(libraries: Sequence[PluginLibrary], autoload: Path | None, folder: Path) -> list[Path]:
    if autoload is None:
        return []
    folder.mkdir()
    names = {each.file: each.path for each in libraries} | {autoload.name: autoload}
    return [Path(shutil.copy(path, folder / name)) for name, path in names.items()]
