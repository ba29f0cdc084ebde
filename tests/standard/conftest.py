"""What the tests of standard TensorRT share: the declarations of its bindings, read once in a run."""

import functools
import json
import shutil
from pathlib import Path

import pytest
from declarations import BINDINGS, Declarations
from run_folder import folder_of_run

from bridge.base.locks import locked


@pytest.fixture(scope="session")
def declarations(tmp_path_factory):
    """declarations(version): of standard TensorRT, or of "tensorrt_rtx"."""
    folder = folder_of_run(tmp_path_factory) / "declarations"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def read(version: str) -> Declarations:
        file = declared_file(folder, version)
        return Declarations(json.loads(file.read_text()))

    return read


@pytest.fixture(scope="session")
def declared_files(tmp_path_factory, declarations):
    """declared_files(version): the same as a file."""
    folder = folder_of_run(tmp_path_factory) / "declarations"
    return lambda version: declared_file(folder, version)


def declared_file(folder: Path, version: str) -> Path:
    """The file with a version's declarations, written if it is not there."""
    file = folder / f"{version}.json"
    with locked(folder / f"{version}.lock", "declarations are being read for another test"):
        if not file.exists():
            file.write_text(json.dumps(Declarations.of(where_of(version)).dumped))
    return file


def where_of(version: str) -> str:
    """What bindings_dump.py is told; skips the test where that is missing."""
    if version == "tensorrt_rtx":
        pytest.importorskip("tensorrt_rtx")
        return version
    missing = [program for program in ("gcc", "nm", "readelf") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, to import the bindings without TensorRT")
    if not (BINDINGS / version).is_dir():
        pytest.skip(f"needs the Python bindings of TensorRT {version} in {BINDINGS}: make bindings")
    return str(BINDINGS / version)
