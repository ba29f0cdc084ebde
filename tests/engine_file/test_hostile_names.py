"""Names in engine files and of them: they move no terminal, and long ones take no time."""

import io
import json
import sys

import pytest
import torch
from fuzz_files import valid
from generated_row import GENERATED
from headers import KEY, write

import bridge
from bridge import cli
from bridge.base.cache_folder import folder_of
from bridge.engine.cache import EngineCache
from bridge.errors import EngineFileError
from bridge.graph.model_source import model_line

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r"


def test_control_characters_of_names_reach_no_terminal(tmp_path, capsys, header):
    header["layers"][0] |= {"name": ESCAPES, "attributes": {"a": ESCAPES}}
    header["metadata"] |= {
        "model": ESCAPES,
        "nodes": [{"name": ESCAPES, "op": "relu", "module": ESCAPES, "layers": [ESCAPES]}],
        "lowerings": [{"node": "n", "op": "relu", "kind": ESCAPES, "lowering": "plugin", "why": ESCAPES}],
        "generated": [
            GENERATED
            | {
                "kernels": [GENERATED["kernels"][0] | {"file": ESCAPES, "configurations": [ESCAPES]}],
                "regions": [{"conditions": ESCAPES, "launches": 1}],
            }
        ],
        "passes": [{"pass": "rope", "replaced": False, "what": ESCAPES, "line": ESCAPES, "module": ESCAPES}],
        "cache_key": KEY,
    }
    cache = EngineCache(folder_of(None), 1 << 30)
    cache.path(KEY).parent.mkdir(parents=True, mode=0o700)
    path = write(cache.path(KEY), header)
    module = bridge.load(path)
    shown = [repr(module), repr(module.file), str(bridge.report(module)), module.explain(nodes=True, layers=True)]
    for command in (
        ["explain", str(path)],
        ["explain", str(path), "--json"],
        ["cache", "ls"],
        ["cache", "ls", "--json"],
    ):
        assert cli.main(command) == 0
        shown.append(capsys.readouterr().out)
    for text in shown:
        assert "owned" in text or "Größe" not in text
        assert not [letter for letter in text if letter != "\n" and not letter.isprintable()], repr(text)
    assert json.loads(shown[5])["model"] == ESCAPES  # for scripts it is what it was


def test_a_terminal_that_lacks_letters_shows_escapes(tmp_path, monkeypatch, header):
    path = write(tmp_path / "a.engine", header)
    for option in ("--layers", "--json"):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
        assert cli.main(["explain", str(path), option]) == 0
        assert b"Gr\\xf6\\xdfe" in written.getvalue()


def test_a_models_path_need_not_be_text():
    node = torch.fx.Graph().placeholder("x")
    node.meta["stack_trace"] = '  File "/home/\udcff/model.py", line 3, in forward\n    return x\n'
    assert model_line(node) == "/home/\\udcff/model.py:3 in forward: return x"


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
def test_names_that_no_file_can_have(name):
    with pytest.raises(EngineFileError, match="cannot read it: "):
        bridge.load(name)
    with pytest.raises(EngineFileError, match="cannot write "):
        valid().save(name)


def test_long_names_and_deep_modules_take_no_time(tmp_path, header):
    """A table is not padded to its longest name, and paths are not followed to their end."""
    names = [str(index) for index in range(3000)]
    header["layers"] = [{"name": name, "type": "CAST"} for name in ["x" * 1_000_000, *names]]
    header["metadata"]["nodes"] = [{"name": "n" * 1_000_000, "op": "a", "module": "." * 1_000_000, "layers": names}]
    module = bridge.load(write(tmp_path / "a.engine", header))
    assert len(module.explain(nodes=True, layers=True)) < 10_000_000
