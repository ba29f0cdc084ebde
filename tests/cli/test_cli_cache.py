"""bridge cache ls, clear, prune and verify."""

import json

import pytest

from bridge.base.cache_folder import folder_of
from bridge.cli import main
from bridge.engine.cache import EngineCache

A, B = "a" * 64, "b" * 64


@pytest.fixture
def cache(make_engine_file):
    cache = EngineCache(folder_of(None), 1 << 30)
    for key in (A, B):
        cache.get_or_build(key, make_engine_file)
    return cache


def test_ls(cache, capsys):
    assert main(["cache", "ls"]) == 0
    out = capsys.readouterr().out
    assert "aaaaaaaaaaaa" in out and "1 relu" in out and "sm86" in out and "tensorrt_rtx 1.7.1.116" in out
    assert "\n2 engines, " in out and str(cache.folder) in out


def test_ls_as_json_and_a_damaged_entry(cache, capsys):
    cache.path(A).write_bytes(b"damaged")
    assert main(["cache", "ls", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["key"]: row for row in found["engines"]}
    assert "error" in rows[A] and rows[B]["plugins"] == {"relu": 1} and found["limit"] == 20 << 30
    assert main(["cache", "ls"]) == 0 and "damaged" in capsys.readouterr().out


def test_an_empty_or_missing_folder(capsys, tmp_path):
    assert main(["cache", "ls", "--dir", str(tmp_path / "none")]) == 0
    assert "0 engines, 0 bytes of at most" in capsys.readouterr().out
    assert main(["cache", "verify", "--dir", str(tmp_path / "none")]) == 0


def test_clear(cache, capsys):
    assert main(["cache", "clear", "aaa"]) == 0
    assert "removed 1 engines" in capsys.readouterr().out and [entry.key for entry in cache.entries()] == [B]
    assert main(["cache", "clear", "ccc"]) == 1 and "begins with ccc" in capsys.readouterr().err
    assert main(["cache", "clear"]) == 0 and not cache.entries()


def test_prune(cache, capsys):
    assert main(["cache", "prune"]) == 0 and "removed 0" in capsys.readouterr().out
    assert main(["cache", "prune", "--size", "1 kB"]) == 0 and not cache.entries()
    assert main(["cache", "prune", "--size", "some"]) == 1 and "--size is 'some'" in capsys.readouterr().err


def test_verify(cache, capsys):
    assert main(["cache", "verify"]) == 0 and "2 engines, 0 damaged" in capsys.readouterr().out
    cache.path(A).write_bytes(cache.path(A).read_bytes()[:-1])
    assert main(["cache", "verify"]) == 1
    out = capsys.readouterr().out
    assert f"{A}.engine" in out and "truncated" in out and "1 damaged" in out
    assert main(["cache", "verify", "--repair"]) == 0 and main(["cache", "verify"]) == 0
