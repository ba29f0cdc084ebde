"""The cache of generated libraries has a limit; what is in use stays."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import hand_written_ops as ops
import pytest

from bridge import cli
from bridge.base.locks import held, locked
from bridge.generate import build as building
from bridge.generate import cache, folders, store
from bridge.generate.build import build, build_anew, plugin_name
from bridge.generate.native import triton_private
from bridge.generate.native.canonical import made_by

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The folder of generated libraries, in a cache of the test's own."""
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path))
    return tmp_path / "generated"


def library(root, key, age, made_with=None):
    """A folder as of a library, of about a megabyte, that was used `age` seconds ago."""
    folder = root / "acme" / key
    folder.mkdir(parents=True)
    (folder / "libacme_plugins.so").write_bytes(bytes(SIZE))
    (folder / "library.json").write_text(json.dumps({"made_by": made_with or made_by()}))
    return used(folder, age)


def kernel(root, key, age, version=None):
    """An entry of Triton's cache."""
    folder = root / "triton" / key
    folder.mkdir(parents=True)
    (folder / "norm.cubin").write_bytes(bytes(SIZE))
    (folder / "norm.json").write_text(json.dumps({"triton_version": version or triton_private.version()}))
    return used(folder, age)


def used(path, age):
    os.utime(path, (time.time() - age,) * 2)
    return path


def removed(entries):
    return [entry.path.name for entry in entries]


def test_what_was_not_used_for_longest_goes_first_and_triton_counts(root):
    library(root, "old", 5000)
    kernel(root, "OLDER", 9000)
    library(root, "new", 3000)
    host = root / "host-0.o"
    host.write_bytes(bytes(SIZE))
    used(host, 4000)
    assert cache.prune(root, 5 * SIZE) == []
    assert removed(cache.prune(root, 2 * SIZE + 10_000 * 4)) == ["OLDER", "old"]
    assert removed(cache.entries(root)) == ["new", "host-0.o"]
    assert not list(root.rglob(".*")) and not list(root.rglob("*.lock"))
    assert removed(cache.prune(root, 1)) == ["host-0.o", "new"]


def test_what_another_version_made_goes_before_what_is_older(root):
    library(root, "old", 9000)
    library(root, "of_another", 3000, "another bridge")
    kernel(root, "OF_ANOTHER", 2000, "2.0.0")
    (library(root, "damaged", 1000) / "library.json").write_text("{")
    used(root / "acme" / "damaged", 1000)
    assert removed(cache.prune(root, SIZE + 20_000)) == ["of_another", "OF_ANOTHER", "damaged"]


def test_what_is_in_use_stays(root):
    library(root, "being_built", 9000)
    cache.keep(library(root, "loaded", 9000))
    used(root / "acme" / "loaded", 9000)
    library(root, "just_taken", 5)
    kernel(root, "K", 9000)
    with locked(root / "acme" / "being_built.lock", "test"), held(root / "triton"):
        assert cache.prune(root, 1) == []
    assert removed(cache.prune(root, 1)) == ["being_built", "K"]
    assert removed(cache.clear(root)) == ["just_taken"]


HOLD = "import sys; from pathlib import Path; from bridge.generate import cache\ncache.keep(Path(sys.argv[1]))\n"


def test_what_another_process_has_loaded_stays_until_it_ends(root):
    folder = library(root, "loaded", 9000)
    code = HOLD + "print(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        assert time.time() - folder.stat().st_mtime < 60, "it is used last now"
        used(folder, 9000)
        assert cache.prune(root, 1) == [] and cache.clear(root) == []
        process.communicate("\n")
    assert removed(cache.prune(root, 1)) == ["loaded"]


def test_folders_outside_of_the_cache_are_left_alone(tmp_path, root):
    shipped = library(tmp_path / "shipped", "x", 9000)
    before = shipped.stat().st_mtime
    cache.keep(shipped)
    assert shipped.stat().st_mtime == before


def test_what_a_dead_process_was_writing_goes_after_a_day(root):
    for name, age in (("acme/.new-1", 2 * 86400), ("acme/.old-1", 3600), (".host-1", 2 * 86400)):
        (root / name).mkdir(parents=True)
        used(root / name, age)
    (root / "acme" / "killed.lock").touch()
    used(root / "acme" / "killed.lock", 3600)
    with locked(root / "acme" / "alive.lock", "test"):
        used(root / "acme" / "alive.lock", 3600)
        cache.prune(root, SIZE)
        assert sorted(path.name for path in root.glob("acme/*")) == [".old-1", "alive.lock"]
    assert not (root / ".host-1").exists()


def test_a_build_prunes_and_keeps_what_it_made(root, monkeypatch, tmp_path):
    library(root, "old", 9000)
    monkeypatch.setenv("BRIDGE_GENERATED_SIZE", "10 kB")
    folder = build([ops.counted()], ["sm86"])
    assert building.is_whole(folder, "acme") and folders.read(folder).description["made_by"] == made_by()
    assert not (root / "acme" / "old").exists()
    library(root, "old", 9000)
    build_anew([ops.counted()], ["sm86"], tmp_path / "shipped")
    assert not (root / "acme" / "old").exists()


def test_a_plugin_that_is_restored_was_used(root):
    folder = used(build([ops.counted()], ["sm86"]), 9000)
    store.restore(f"acme::{plugin_name(ops.counted())}", "sm86")
    assert time.time() - folder.stat().st_mtime < 60


def test_a_size_that_is_none_is_refused_first(monkeypatch):
    monkeypatch.setenv("BRIDGE_GENERATED_SIZE", "much")
    monkeypatch.setattr(building, "_build", None)
    with pytest.raises(ValueError, match="BRIDGE_GENERATED_SIZE is 'much'"):
        build([ops.counted()], ["sm86"])


def test_the_command_shows_prunes_and_clears(root, capsys, tmp_path):
    library(root, "old", 9000)
    library(root, "new", 3000)
    kernel(root, "K", 3000)
    assert cli.main(["cache", "ls"]) == 0
    assert f"2 generated libraries, 3.2 MB of at most 5.4 GB, in {root}" in capsys.readouterr().out
    assert cli.main(["cache", "ls", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["generated"]
    assert told == {"folder": str(root), "limit": 5 << 30, "size": told["size"], "libraries": 2}
    assert told["size"] > 3 * SIZE
    assert cli.main(["cache", "prune", "--generated-size", "2.2MiB"]) == 0
    assert "removed 1 generated libraries" in capsys.readouterr().out and not (root / "acme" / "old").exists()
    assert cli.main(["cache", "prune", "--generated-size", "some"]) == 1
    assert "--generated-size is 'some'" in capsys.readouterr().err
    assert cli.main(["cache", "clear", "--generated", "abc"]) == 2 and "takes no KEY" in capsys.readouterr().err
    assert cli.main(["cache", "clear"]) == 0 and (root / "acme" / "new").exists()
    assert cli.main(["cache", "clear", "--generated", "--dir", str(tmp_path)]) == 0
    assert "removed 1 generated libraries and their kernels, 2." in capsys.readouterr().out
    assert cache.entries(root) == []
    assert cli.main(["cache", "ls", "--dir", str(Path("/nowhere"))]) == 0
    assert "0 generated libraries, 0 bytes" in capsys.readouterr().out
