"""The engine cache: what is kept, thrown away and mended."""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
import torch
from cache_entries import A, B, C, flip, refuse
from torch import nn

import bridge
from bridge.base.cache_folder import folder_of
from bridge.base.text import parse_size
from bridge.engine.cache import EngineCache, default_size
from bridge.engine_file.contents import EngineFile


def test_the_second_time_nothing_is_built(cache, build):
    first, cached = cache.get_or_build(A, build)
    assert not cached and build.count == 1
    second, cached = cache.get_or_build(A, refuse)
    assert cached and second.engine == first.engine and second.metadata["cache_key"] == A
    assert not list(cache.folder.rglob("*.lock")) and not list(cache.folder.rglob("*.tmp"))


def test_a_failed_build_leaves_nothing(cache, build):
    for error in (bridge.errors.BuildError("no"), KeyboardInterrupt()):

        def fail(error=error):
            raise error

        with pytest.raises(type(error)):
            cache.get_or_build(A, fail)
    assert not [path for path in cache.folder.rglob("*") if path.is_file()]
    cache.get_or_build(A, build)


# Damage


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "a flipped bit": flip,
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_text("hello"),
    "another entry": lambda path: path.write_bytes(path.with_name(f"{B}.engine").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_built_again(cache, build, caplog, damage):
    for key in (A, B):
        cache.get_or_build(key, build)
    DAMAGE[damage](cache.path(A))
    assert list(cache.verify()) == [f"{A}.engine"]
    file, cached = cache.get_or_build(A, build)
    assert not cached and build.count == 3 and file.metadata["cache_key"] == A
    assert "is built again" in caplog.text and str(cache.path(A)) in caplog.text
    assert not cache.verify() and cache.get_or_build(A, refuse)[1]


# Bounds


def sizes_of_one(build, folder):
    cache = EngineCache(folder, 1 << 30)
    cache.get_or_build(A, build)
    return cache.entries()[0].size


def test_what_was_not_used_for_longest_goes_first(build, tmp_path):
    one = sizes_of_one(build, tmp_path / "one")
    cache = EngineCache(tmp_path / "cache", 2 * one + 100)
    now = time.time()
    for age, key in ((300, A), (200, B)):
        cache.get_or_build(key, build)
        os.utime(cache.path(key), (now - age, now - age))
    cache.get_or_build(A, refuse)  # used again: B is the older one now
    cache.get_or_build(C, build)
    assert [entry.key for entry in cache.entries()] in ([C, A], [A, C])


def test_an_engine_larger_than_the_cache_is_not_kept(build, tmp_path, caplog):
    cache = EngineCache(tmp_path / "cache", 100)
    file, cached = cache.get_or_build(A, build)
    assert isinstance(file, EngineFile) and not cached and not cache.entries()
    assert "at most 100 bytes: it is not kept; set BRIDGE_CACHE_SIZE" in caplog.text


def test_prune_removes_what_dead_writers_left(cache, build):
    cache.get_or_build(A, build)
    engines = cache.path(A).parent
    old = time.time() - 48 * 3600
    for name in (".bridge-1-00.tmp", f"{B}.lock"):
        (engines / name).write_bytes(b"x")
        os.utime(engines / name, (old, old))
    (engines / ".bridge-2-00.tmp").write_bytes(b"being written")
    with (engines / f"{C}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        os.utime(engines / f"{C}.lock", (old, old))
        cache.prune()
    names = {path.name for path in engines.iterdir()}
    assert names == {f"{A}.engine", ".bridge-2-00.tmp", f"{C}.lock"}
    assert [entry.key for entry in cache.prune(0)] == [A]


# Folders that do not work


def test_a_folder_that_cannot_be_made_costs_a_warning(build, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = EngineCache(tmp_path / "file" / "cache", 1 << 30)
    for _ in range(2):
        assert not cache.get_or_build(A, build)[1]
    assert build.count == 2 and "is not usable" in caplog.text and "BRIDGE_CACHE_DIR" in caplog.text
    assert cache.entries() == [] and cache.prune() == [] and cache.verify() == {}


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_read_only_or_full_folder_costs_a_warning(cache, build, monkeypatch, caplog, code):
    from bridge.engine_file import container

    @contextlib.contextmanager
    def replacing(path, private):
        raise OSError(code, os.strerror(code))
        yield

    monkeypatch.setattr(container, "replacing", replacing)
    assert not cache.get_or_build(A, build)[1]
    assert os.strerror(code) in caplog.text and "cache=False" in caplog.text and not cache.entries()


def test_a_read_only_cache_is_still_read(cache, build, monkeypatch):
    cache.get_or_build(A, build)

    def utime(*args, **kwargs):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", utime)
    assert cache.get_or_build(A, refuse)[1]


def test_an_entry_that_cannot_be_removed_does_not_stop_a_build(cache, build, monkeypatch, caplog):
    cache.get_or_build(A, build)
    flip(cache.path(A))

    def unlink(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", unlink)
    assert not cache.get_or_build(A, build)[1] and "Permission denied" in caplog.text


# Settings


def test_where_the_folder_comes_from(monkeypatch):
    monkeypatch.setenv("BRIDGE_CACHE_DIR", "/named")
    assert folder_of(None) == Path("/named") and folder_of("/setting") == Path("/setting")
    monkeypatch.delenv("BRIDGE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert folder_of(None) == Path("/xdg/bridge")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert folder_of(None) == Path("/home/me/.cache/bridge")


def test_sizes(monkeypatch):
    assert parse_size("20GiB", "x") == 20 << 30 and parse_size("1.5 MB", "x") == 1_500_000 == parse_size("1500000", "x")
    monkeypatch.setenv("BRIDGE_CACHE_SIZE", "3kB")
    assert default_size() == 3000
    for text in ("", "GiB", "-3", "5 apples", "0", "nan"):
        with pytest.raises(ValueError, match=r"x is .*20GiB"):
            parse_size(text, "x")
    monkeypatch.setenv("BRIDGE_CACHE_SIZE", "much")
    with pytest.raises(ValueError, match="BRIDGE_CACHE_SIZE is 'much'"):
        bridge.compile(nn.ReLU().eval(), (torch.ones(2),), target="sm86")
