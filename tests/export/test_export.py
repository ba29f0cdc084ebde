"""Exports: what is in the folder, and that it appears whole or not at all."""

import json
import re
import shutil

import pytest

from bridge.base.files import sha256
from bridge.core import libraries
from bridge.engine.compiled import CompiledModule
from bridge.errors import EngineFileError, LibraryError
from bridge.export import formats, manifest


def tree(folder):
    """Every file below a folder, hidden ones too, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_plan_is_the_engine_alone(file, tmp_path):
    (path,) = CompiledModule(file).export(tmp_path / "plan", "plan")
    assert tree(tmp_path) == {"plan/model.plan": file.engine}
    assert path == tmp_path / "plan" / "model.plan"


def test_a_folder_has_all_that_a_run_takes(file, tmp_path):
    paths = CompiledModule(file).export(tmp_path / "net")
    found = tree(tmp_path)
    assert set(found) == {str(path.relative_to(tmp_path)) for path in paths}
    assert sorted(found) == [
        "net/README.md",
        "net/manifest.json",
        "net/model.plan",
        "net/plugins/libbridge_autoload.so",
        "net/plugins/libbridge_plugins.so",
    ]
    assert found["net/plugins/libbridge_plugins.so"] == libraries.plugin_library().read_bytes()
    described = json.loads(found["net/manifest.json"], parse_constant=pytest.fail)
    assert described == manifest.read(tmp_path / "net")
    assert described["engine"] == {"file": "model.plan", "bytes": 1000, "sha256": sha256(tmp_path / "net/model.plan")}
    assert (described["flavour"], described["tensorrt"], described["target"]) == ("tensorrt_rtx", "1.7.1.116", "sm86")
    assert described["inputs"][0] == {
        **{"name": "x", "dtype": "float16"},
        **{"min": [1, 3, 0], "opt": [4, 3, 8], "max": [16, 3, 64]},
    }
    assert described["result"]["leaves"] == [{"output": "y"}, {"literal": None}, {"literal": 1.5}, {"input": "n"}]
    (library,) = described["libraries"]
    assert library["ops"] == list(libraries.library("bridge").plugins().schemas)
    assert str(tmp_path) not in found["net/README.md"].decode() + found["net/manifest.json"].decode()


def test_an_engine_without_plugins_has_no_libraries(file, make_engine_file, tmp_path):
    CompiledModule(make_engine_file(plugins={})).export(tmp_path / "net")
    assert sorted(tree(tmp_path / "net")) == ["README.md", "manifest.json", "model.plan"]
    assert manifest.read(tmp_path / "net")["autoload"] is None
    assert "needs no plugin" in (tmp_path / "net/README.md").read_text()


def test_the_readme_names_inputs_as_commands_take_them(file, tmp_path):
    CompiledModule(file).export(tmp_path / "net")
    text = (tmp_path / "net/README.md").read_text()
    assert "| x | float16 | [1, 3, 0] | [4, 3, 8] | [16, 3, 64] |" in text
    assert "| y | bfloat16 | [?, 3, ?] |" in text
    assert "run_folder . results x:4x3x8=x.bin n:=n.bin" in text
    assert "trtexec" not in text  # TensorRT-RTX has none
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    compile(code, "README.md", "exec")


def test_the_readme_of_standard_tensorrt_has_its_tools(make_engine_file, tmp_path):
    CompiledModule(make_engine_file(flavour="tensorrt", tensorrt_version="10.15.1.29")).export(tmp_path / "net")
    text = (tmp_path / "net/README.md").read_text()
    assert "--staticPlugins=plugins/libbridge_autoload.so --shapes=x:4x3x8,n:`" in text
    assert "--backend-config=tensorrt,plugins=plugins/libbridge_autoload.so" in text


def test_infinite_literals_are_json(make_engine_file, tmp_path):
    file = make_engine_file(output_map=[0, {"literal": float("-inf")}, {"literal": True}])
    CompiledModule(file).export(tmp_path / "net")
    described = json.loads((tmp_path / "net/manifest.json").read_text(), parse_constant=pytest.fail)
    assert described["result"]["leaves"][1:] == [{"literal": "-inf", "type": "float"}, {"literal": True}]


def test_what_is_there_stays_without_force(file, tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(EngineFileError, match=r"net is not empty; name another one, or replace it with --force"):
        CompiledModule(file).export(folder)
    assert tree(tmp_path) == {"net/mine.txt": b"mine"}
    CompiledModule(file).export(folder, "plan", force=True)
    assert tree(tmp_path) == {"net/model.plan": file.engine}


def test_an_empty_folder_is_filled_and_a_file_is_refused(file, tmp_path):
    (tmp_path / "net").mkdir()
    CompiledModule(file).export(tmp_path / "net", "plan")
    with pytest.raises(EngineFileError, match=r"model\.plan is no folder"):
        CompiledModule(file).export(tmp_path / "net/model.plan", "plan", force=True)
    assert tree(tmp_path) == {"net/model.plan": file.engine}


def test_the_current_folder_is_not_replaced(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineFileError, match="is the current folder, which the new one would replace"):
        CompiledModule(file).export("sub/..", force=True)
    assert tree(tmp_path) == {}


def test_what_came_meanwhile_stays(file, tmp_path, monkeypatch):
    """Another process writes to the folder while this one exports."""

    def write(*arguments):
        (tmp_path / "net").mkdir()
        (tmp_path / "net/mine.txt").write_text("mine")
        return []

    monkeypatch.setitem(formats.FORMATS, "plan", write)
    with pytest.raises(EngineFileError, match=r"cannot write .*net: Directory not empty"):
        CompiledModule(file).export(tmp_path / "net", "plan")
    assert tree(tmp_path) == {"net/mine.txt": b"mine"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), LibraryError("gone")])
def test_a_failed_export_leaves_what_was_there(file, tmp_path, monkeypatch, error):
    CompiledModule(file).export(tmp_path / "net", "plan")
    before = tree(tmp_path)

    def copy(source, place):
        raise error

    monkeypatch.setattr(shutil, "copy", copy)
    expected = EngineFileError if isinstance(error, OSError) else error if isinstance(error, type) else type(error)
    with pytest.raises(expected):
        CompiledModule(file).export(tmp_path / "net", force=True)
    with pytest.raises(expected):
        CompiledModule(file).export(tmp_path / "new")
    assert tree(tmp_path) == before and not (tmp_path / "new").exists()


def test_an_unknown_format_is_named(file, tmp_path):
    with pytest.raises(ValueError, match="cannot be exported to 'onyx'; expected one of plan, folder"):
        formats.export(file, tmp_path / "net", "onyx")
