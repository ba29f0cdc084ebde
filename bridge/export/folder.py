"""Exports a deployment folder: the plan, its plugin libraries, a manifest and the commands to run it."""

import shutil
from pathlib import Path
from typing import Any

from bridge.base.files import sha256
from bridge.engine_file.contents import EngineFile
from bridge.export import manifest, plan
from bridge.export.libraries import FOLDER, libraries_of


def write(file: EngineFile, folder: Path, options: Any) -> list[Path]:
    """Writes model.plan, plugins/, manifest.json and README.md. LibraryError: see libraries_of."""
    libraries = libraries_of(file)
    written = plan.write(file, folder, options)
    if libraries:
        (folder / FOLDER).mkdir()
    written += [Path(shutil.copy(each.path, folder / FOLDER / each.file)) for each in libraries]
    described = folder / manifest.NAME
    manifest.write(described, manifest.of(file, libraries, plan.PLAN, sha256(written[0])))
    return [*written, described]
