"""The plugin libraries that an engine needs: found, and the ones that it was built with."""

import dataclasses

import pytest

from bridge.base.files import sha256
from bridge.core import libraries
from bridge.core.library import Library
from bridge.errors import EngineFileError, LibraryError
from bridge.export import native
from bridge.export.libraries import libraries_of


def test_each_library_is_there_once(file):
    (found,) = libraries_of(file)
    assert (found.namespace, found.path, found.file) == (
        "bridge",
        libraries.plugin_library(),
        "libbridge_plugins.so",
    )
    assert found.sha256 == sha256(found.path) and "relu" in found.ops


def test_an_engine_of_an_older_bridge_says_nothing_of_its_libraries(make_engine_file):
    assert len(libraries_of(make_engine_file())) == 1
    assert libraries_of(make_engine_file(plugins={})) == []


def test_a_library_of_nobody(make_engine_file):
    with pytest.raises(LibraryError, match="there is no library acme; there are "):
        libraries_of(make_engine_file(plugins={"acme::corr": "1"}))


def test_a_plugin_that_the_library_lacks(make_engine_file):
    with pytest.raises(LibraryError, match=r"the plugin relu7, which .*libbridge_plugins\.so lacks"):
        libraries_of(make_engine_file(plugins={"relu7": "1"}))


def test_a_library_that_is_missing(file, tmp_path, monkeypatch):
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    with pytest.raises(LibraryError, match=rf"libbridge_plugins\.so is not in {tmp_path}"):
        libraries_of(file)
    with pytest.raises(LibraryError, match=rf"libbridge_autoload\.so is not in {tmp_path}. Build it"):
        native.autoload_library()


def test_another_version_of_a_library(file):
    row = {**file.metadata["libraries"][0], "sha256": "0" * 64}
    other = dataclasses.replace(file, metadata={**file.metadata, "libraries": [row]})
    with pytest.raises(LibraryError, match=r"SHA-256 000000000000…; .* has .*: compile the model again here"):
        libraries_of(other)


def test_a_library_without_code_for_the_target(file):
    with pytest.raises(LibraryError, match=r"none of which runs on sm52, for which the engine was built"):
        libraries_of(dataclasses.replace(file, target="sm52"))


def test_generated_plugins_have_files_of_their_own(file, make_engine_file, monkeypatch, tmp_path):
    """They share a namespace, and so the names of their files."""
    monkeypatch.setattr(Library, "key", property(lambda self: "bridge::relu"))
    (found,) = libraries_of(make_engine_file())
    assert found.file == "libbridge_relu_plugins.so"


def test_a_target_that_is_none(file):
    with pytest.raises(EngineFileError, match="the engine's target is 'ampere'; expected a compute capability"):
        libraries_of(dataclasses.replace(file, target="ampere"))
