"""What an engine file can be exported to, and the export itself.

A writer gets an empty folder and fills it; `export` puts it in place when it is complete. So no writer has to care for
interruptions, for what was there before, or for the name of the folder, which no file may hold.
"""

import os
from collections.abc import Callable
from pathlib import Path

from bridge.engine_file.contents import EngineFile
from bridge.export import folder, plan
from bridge.export.options import Options as Options
from bridge.export.output import new_folder
from bridge.export.triton import repository

Writer = Callable[[EngineFile, Path, Options], list[Path]]
"""Writes an engine into an empty folder, and returns the files. LibraryError: a plugin library is not here."""

FORMATS: dict[str, Writer] = {
    "plan": plan.write,
    "folder": folder.write,
    "triton": repository.write,
}


def export(
    file: EngineFile,
    path: str | os.PathLike[str],
    to: str = "folder",
    *,
    force: bool = False,
    options: Options | None = None,
) -> list[Path]:
    """Writes a folder for machines that run the engine without bridge; returns its files.

    The folder appears when it is complete. An interrupted or failed export leaves what was there.

    Args:
        path: the folder. It is new or empty, unless `force`, which replaces it.
        to: one of FORMATS.
    Raises:
        ValueError: there is no such format.
        EngineFileError: the folder is not empty, or cannot be written.
        LibraryError: a plugin library that the engine needs is missing, is another one, or lacks code for its target.
    """
    if to not in FORMATS:
        raise ValueError(f"an engine cannot be exported to {to!r}; expected one of {', '.join(FORMATS)}")
    target = Path(path)
    with new_folder(target, force=force) as staging:
        written = FORMATS[to](file, staging, options or Options())
        relative = [each.relative_to(staging) for each in written]
    return [target / each for each in relative]
