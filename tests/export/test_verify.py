"""Checks of an exported folder: each kind of damage is found, and nothing is changed or loaded."""

import ctypes
import json

import pytest

from bridge.engine.compiled import CompiledModule
from bridge.errors import EngineFileError, LibraryError
from bridge.export import manifest
from bridge.export import verify as module
from bridge.export.verify import verify


@pytest.fixture
def folder(file, tmp_path):
    CompiledModule(file).export(tmp_path / "net")
    return tmp_path / "net"


def error_of(folder):
    """The one error that is found in the files of a folder, or None."""
    found = [check.error for check in verify(folder, machine=False) if not check.passed]
    assert len(found) <= 1
    return found[0] if found else None


def change(folder, **values):
    described = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(described | values))


def test_a_whole_folder_stays_as_it_is_and_is_not_loaded(folder, monkeypatch):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(ctypes, "CDLL", lambda path: pytest.fail(f"{path} is loaded"))
    assert error_of(folder) is None
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}


def test_a_truncated_plan(folder):
    (folder / "model.plan").write_bytes((folder / "model.plan").read_bytes()[:-1])
    error = error_of(folder)
    assert isinstance(error, EngineFileError) and "model.plan is damaged or another one: its SHA-256 is" in str(error)


@pytest.mark.parametrize("name", ["libbridge_plugins.so", "libbridge_autoload.so"])
def test_a_missing_library(folder, name):
    (folder / "plugins" / name).unlink()
    error = error_of(folder)
    assert isinstance(error, LibraryError) and f"plugins/{name} is missing: copy the folder again" in str(error)


def test_a_file_that_cannot_be_read(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "device_codes", refuse)
    plugins = folder / "plugins"
    errors = [check.error for check in verify(folder, machine=False) if not check.passed]
    assert [str(error) for error in errors] == [
        f"cannot read {plugins / name}: Permission denied" for name in ("libbridge_plugins.so", "libbridge_autoload.so")
    ]


def test_a_link_in_place_of_a_file(folder):
    (folder / "model.plan").rename(folder.parent / "elsewhere")
    (folder / "model.plan").symlink_to(folder.parent / "elsewhere")
    assert "model.plan is missing" in str(error_of(folder))


def test_a_library_that_the_manifest_does_not_name(folder):
    (folder / "plugins/libmore_plugins.so").write_bytes(b"")
    error = error_of(folder)
    assert isinstance(error, LibraryError)
    assert str(error) == "the manifest does not name plugins/libmore_plugins.so, which hosts may load: remove it"


def test_a_target_that_the_libraries_have_no_code_for(folder):
    change(folder, target="sm52")
    assert "plugins/libbridge_plugins.so holds sm_" in str(error_of(folder)).replace("code for ", "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": 2}, "has format 2, and this bridge reads 1: export the engine again"),
        ({"target": 86}, "is no manifest: the target of it must be str, not int"),
        ({"target": "ampere"}, "is no manifest: the target of it is 'ampere'; expected a compute capability"),
        ({"libraries": None}, "is no manifest: the libraries of it must be list"),
        ({"engine": {"file": "../x", "bytes": 1, "sha256": "0"}}, "names '../x', which is not in the folder"),
        ({"autoload": {"file": "/bin/sh", "sha256": "0"}}, "names '/bin/sh', which is not in the folder"),
    ],
)
def test_a_manifest_that_is_wrong(folder, values, words):
    change(folder, **values)
    with pytest.raises(EngineFileError) as caught:
        manifest.read(folder)
    assert words in str(caught.value)
    assert str(error_of(folder)) == str(caught.value)


def test_a_truncated_manifest(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert "manifest.json is no manifest: " in str(error_of(folder))


def test_a_folder_for_another_processor(folder):
    change(folder, machine="aarch64")
    found = {check.name: str(check.error) for check in verify(folder) if not check.passed}
    assert found["processor"].startswith("the libraries are for aarch64; this machine is ")
