"""Exports of engines with generated plugins: their libraries go along, each under a name of its own."""

import pytest

from bridge.base.files import sha256
from bridge.engine.compiled import CompiledModule
from bridge.errors import LibraryError
from bridge.export import manifest
from bridge.export.libraries import libraries_of
from bridge.generate import folders


@pytest.fixture
def engine_file(generated, make_engine_file, monkeypatch):
    """It needs two plugins of one generated library, and relu."""
    monkeypatch.setenv(folders.PATH_VARIABLE, str(generated.folder))
    names = [f"acme::{generated.names[each]}" for each in ("product", "counted")]
    return make_engine_file(plugins=dict.fromkeys((*names, "relu"), "1"))


def test_a_generated_library_is_exported_once(generated, engine_file, tmp_path):
    ours, generated_one = sorted(libraries_of(engine_file), key=lambda each: each.namespace != "bridge")
    assert ours.file == "libbridge_plugins.so"
    assert generated_one.file == f"libacme_{generated.names['counted']}_plugins.so"
    assert set(generated.names.values()) == set(generated_one.ops)
    CompiledModule(engine_file).export(tmp_path / "net")
    rows = {row["namespace"]: row for row in manifest.read(tmp_path / "net")["libraries"]}
    copied = tmp_path / "net" / rows["acme"]["file"]
    assert sha256(copied) == rows["acme"]["sha256"] == sha256(folders.read(generated.folder).library)


def test_a_library_with_other_plugins_beside_it_serves_too(engine_file):
    """The name of a generated plugin stands for its content, so the file may be another one."""
    row = {"namespace": "acme", "file": "libacme_plugins.so", "sha256": "0" * 64, "origin": "generated"}
    engine_file.metadata["libraries"] = [row]
    assert len(libraries_of(engine_file)) == 2


def test_a_generated_plugin_that_no_library_here_has(make_engine_file, tmp_path):
    row = {"name": "acme::gone_0123", "operator": "acme::gone"}
    file = make_engine_file(plugins={"acme::gone_0123": "1"})
    file.metadata["generated"] = [row]
    with pytest.raises(
        LibraryError, match=r"the plugin acme::gone_0123, that bridge generated from acme::gone for sm86"
    ):
        libraries_of(file)
