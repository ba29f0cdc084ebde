"""Whom the engine cache trusts, and what it does where others are in its way."""

import errno
import fcntl
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from cache_entries import A, B, refuse

import bridge
from bridge.base import files
from bridge.base.cache_folder import folder_of
from bridge.doors.lowerings import measured_lowerings
from bridge.tensorrt.install.flavour import detect

# Whom the cache trusts


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_no_other_user_can_look_into_the_cache(cache, build):
    before = os.umask(0)
    try:
        cache.get_or_build(A, build)
        measured_lowerings.FILE.store(bridge.Config(cache_dir=str(cache.folder)), [])
    finally:
        os.umask(before)
    files = {path: mode(path) for path in cache.folder.rglob("*") if path.is_file()}
    assert mode(cache.folder) == mode(cache.path(A).parent) == 0o700 and set(files.values()) == {0o600}
    assert {path.name for path in files} == {f"{A}.engine", "lowerings.json"}


def test_folders_of_an_older_bridge_are_closed_to_others(cache, build):
    cache.path(A).parent.mkdir(parents=True)
    cache.folder.chmod(0o777)
    cache.path(A).parent.chmod(0o777)
    cache.get_or_build(A, build)
    assert mode(cache.folder) == 0o755 and mode(cache.path(A).parent) == 0o700
    assert cache.get_or_build(A, refuse)[1]


def test_a_folder_of_another_user_is_no_cache(cache, build, monkeypatch, caplog):
    cache.get_or_build(A, build)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    if uid == 0:
        for folder in (cache.folder, cache.path(A).parent):
            os.chown(folder, 12345, -1)
    owner = 12345 if uid == 0 else uid
    for _ in range(2):
        assert not cache.get_or_build(A, build)[1]
    assert build.count == 3 and f"belongs to user {owner}, not to {uid + 1}" in caplog.text
    assert "is not usable" in caplog.text and "BRIDGE_CACHE_DIR" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of root's")
@pytest.mark.parametrize(("permissions", "usable"), [(0o755, True), (0o777, False), (0o1777, False)])
def test_a_folder_of_the_administrators_is_read_where_no_one_else_can_write(
    cache, build, monkeypatch, permissions, usable
):
    cache.get_or_build(A, build)
    cache.path(A).parent.chmod(permissions)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cache.get_or_build(A, build)[1] is usable


def test_a_lock_that_leads_elsewhere_is_not_followed(cache, build, tmp_path, caplog):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    cache.path(A).parent.mkdir(parents=True)
    cache.path(A).with_suffix(".lock").symlink_to(victim)
    assert not cache.get_or_build(A, build)[1]
    assert victim.read_text() == "precious" and "is not usable" in caplog.text
    cache.path(B).with_suffix(".lock").symlink_to(tmp_path / "made")
    cache.get_or_build(B, build)
    assert not (tmp_path / "made").exists()


def test_a_lock_that_is_no_file(cache, build, caplog):
    cache.path(A).parent.mkdir(parents=True)
    os.mkfifo(cache.path(A).with_suffix(".lock"))
    cache.path(B).with_suffix(".lock").mkdir()
    for key in (A, B):
        assert not cache.get_or_build(key, build)[1]
    assert build.count == 2 and "is no regular file" in caplog.text and "Is a directory" in caplog.text


def test_a_folder_that_cannot_be_searched_costs_a_warning(cache, build, monkeypatch, caplog):
    """As for a user without permission; root has it always."""
    cache.get_or_build(A, build)
    real = {name: getattr(os, name) for name in ("stat", "lstat", "listdir", "scandir", "open", "mkdir")}

    def denied(name):
        def call(path, *rest, **more):
            if str(path).startswith(str(cache.folder)):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real[name](path, *rest, **more)

        return call

    for name in real:
        monkeypatch.setattr(os, name, denied(name))
    assert not cache.get_or_build(A, build)[1] and build.count == 2
    assert "is not usable" in caplog.text and "Permission denied" in caplog.text
    assert cache.entries() == [] and cache.prune() == [] and cache.verify() == {} and cache.clear() == []
    config = bridge.Config(cache_dir=str(cache.folder))
    assert measured_lowerings.FILE.load(config, detect(), "sm86", None) == {}


def test_a_home_that_is_not_known():
    assert folder_of("~nobody-of-this-name/cache") == Path("~nobody-of-this-name/cache")


# Locks that are not given back


def test_a_stopped_builder_is_named_and_not_waited_for(cache, process, build, caplog, monkeypatch):
    monkeypatch.setenv("BRIDGE_LOCK_TIMEOUT", "0.4")
    other = process(seconds=600)
    try:
        assert other.stdout.readline() == "building\n"
        other.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        assert cache.get_or_build(A, build)[1] is False and build.count == 1
        assert 0.4 <= time.monotonic() - started < 20
        assert f"(process {other.pid}, which is stopped); waiting for" in caplog.text
        assert "going on without waiting any longer" in caplog.text and "BRIDGE_LOCK_TIMEOUT" in caplog.text
        assert cache.get_or_build(A, refuse)[1]
    finally:
        other.kill()
        other.communicate()


def test_a_lock_of_this_process_that_is_not_given_back(cache, build, monkeypatch, caplog):
    monkeypatch.setenv("BRIDGE_LOCK_TIMEOUT", "0.1")
    cache.path(A).parent.mkdir(parents=True)
    with cache.path(A).with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not cache.get_or_build(A, build)[1]
        assert cache.path(A).with_suffix(".lock").exists()  # it is another's
    assert f"process {os.getpid()}" in caplog.text


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number(cache, build, monkeypatch, text):
    monkeypatch.setenv("BRIDGE_LOCK_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"BRIDGE_LOCK_TIMEOUT is '{text}'; expected a number of seconds"):
        cache.get_or_build(A, build)


def test_temporary_files_of_dead_writers_go_soon_and_those_of_the_living_stay(cache, build):
    """Also those beside lowerings.json."""
    cache.get_or_build(A, build)
    old = time.time() - 120
    for folder in (cache.folder, cache.path(A).parent):
        for name in (".bridge-1-dead.tmp", ".bridge-2-alive.tmp", ".bridge-3-new.tmp", "mine.tmp"):
            (folder / name).write_bytes(b"half written")
            if "new" not in name:
                os.utime(folder / name, (old, old))
    alive = [(folder / ".bridge-2-alive.tmp").open() for folder in (cache.folder, cache.path(A).parent)]
    for file in alive:
        fcntl.flock(file, fcntl.LOCK_EX)
    cache.get_or_build(B, build)
    left = {path.name for path in cache.folder.rglob("*.tmp")}
    assert left == {".bridge-2-alive.tmp", ".bridge-3-new.tmp", "mine.tmp"}
    for file in alive:
        file.close()


def test_a_writer_holds_its_temporary_file(tmp_path):
    with files.replacing(tmp_path / "a") as file:
        (temporary,) = tmp_path.iterdir()
        os.utime(temporary, (0, 0))
        files.remove_abandoned(temporary)
        assert temporary.exists()
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
