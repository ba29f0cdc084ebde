"""The engine cache: what is kept, shared, thrown away and mended."""

import contextlib
import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fresh_process
import pytest
import torch
from torch import nn

import bridge
from bridge.base.cache_folder import folder_of
from bridge.engine import cache as caches
from bridge.engine.cache import EngineCache, default_size, parse_size
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineFileError

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def build(make_engine_file):
    """A build that counts itself."""

    def build():
        build.count += 1
        return make_engine_file()

    build.count = 0
    return build


def refuse():
    raise AssertionError("built, though the cache has it")


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


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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


# Several at once


HOLD = """
import sys, time
from pathlib import Path
from bridge.engine.cache import EngineCache
from bridge.engine_file.contents import EngineFile
folder, template, log, key, seconds = sys.argv[1:]
def build():
    with open(log, "a") as file:
        file.write("built\\n")
    print("building", flush=True)
    time.sleep(float(seconds))
    return EngineFile.load(template)
print(EngineCache(Path(folder), 1 << 30).get_or_build(key, build)[1], flush=True)
"""


@pytest.fixture
def process(cache, make_engine_file, tmp_path):
    """Starts another process that builds a key, slowly."""
    make_engine_file().save(tmp_path / "template.engine")

    def start(key=A, seconds=1.0):
        arguments = [cache.folder, tmp_path / "template.engine", tmp_path / "builds", key, seconds]
        command = [sys.executable, "-c", HOLD, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return start


def test_two_processes_build_once(process, tmp_path):
    both = [process() for _ in range(2)]
    outputs = [found.communicate(timeout=60)[0].split() for found in both]
    assert sorted(outputs, key=len) == [["True"], ["building", "False"]]
    assert (tmp_path / "builds").read_text() == "built\n"


def test_who_waits_says_so_and_a_dead_builder_does_not_block(cache, process, build, caplog):
    other = process(seconds=600)
    assert other.stdout.readline() == "building\n"
    threading.Timer(0.5, other.send_signal, [signal.SIGKILL]).start()
    with caplog.at_level(logging.INFO, "bridge"):
        assert cache.get_or_build(A, build)[1] is False and build.count == 1
    assert "another process builds the same engine; waiting" in caplog.text
    other.wait()


def test_threads_build_once(cache, make_engine_file):
    count = []

    def build():
        count.append(1)
        time.sleep(0.2)
        return make_engine_file()

    threads = [threading.Thread(target=cache.get_or_build, args=(A, build)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1 and not list(cache.folder.rglob("*.lock"))


def test_another_key_does_not_wait(cache, process, build):
    other = process(B, seconds=600)
    assert other.stdout.readline() == "building\n"
    cache.get_or_build(A, build)
    other.kill()
    other.wait()


def test_a_file_system_without_locks_is_no_obstacle(cache, build, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert not cache.get_or_build(A, build)[1] and cache.get_or_build(A, refuse)[1]


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


# bridge.compile with it


class Slope(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return bridge.relu(x * 2.0, self.slope)


def compiled(slope=0.1, **settings):
    return bridge.compile(Slope(slope).eval(), (torch.ones(2, 3),), target="sm86", **settings)


def test_the_second_compilation_does_no_build(monkeypatch):
    first = compiled()
    from bridge.doors import pipeline

    monkeypatch.setattr(pipeline, "_build", lambda *args: refuse())
    second = compiled()
    assert not first.from_cache and second.from_cache and second.engine == first.engine
    with pytest.raises(AssertionError, match="built"):
        compiled(cache=False)


def test_two_slopes_two_engines():
    first, second = compiled(0.1), compiled(0.2)
    assert not second.from_cache
    slopes = [layer["attributes"]["negative_slope"] for c in (first, second) for layer in c.layers if layer["op"]]
    assert slopes == [pytest.approx(0.1), pytest.approx(0.2)]


@pytest.mark.parametrize("setting", [{"tf32": False}, {"optimization_level": 1}, {"workspace_size": 1 << 20}])
def test_settings_that_change_the_engine_change_the_entry(setting):
    compiled()
    assert not compiled(**setting).from_cache and compiled(progress=False, static_outputs=True).from_cache


def test_a_second_process_does_no_build(tmp_path):
    code = """
import sys, torch
sys.path += sys.argv[1].split(":")
from test_cache import compiled
print(compiled().from_cache)
"""
    outputs = [fresh_process.run(code, os.pathsep.join(sys.path)) for _ in range(2)]
    assert [found.stdout for found in outputs] == ["False\n", "True\n"], outputs[1].stderr


def test_a_damaged_entry_of_a_compilation_is_mended(caplog):
    first = compiled()
    (entry,) = EngineCache.of(bridge.Config()).entries()
    flip(entry.path)
    second = compiled()
    assert not second.from_cache and second.engine[:4] == first.engine[:4] and "checksum" in caplog.text
    assert compiled().from_cache


def test_torch_compile_shares_it():
    from bridge.doors.backend import bridge_backend

    x = torch.ones(2, 3)
    for cached in (False, True):
        torch._dynamo.reset()
        fast = torch.compile(Slope(0.1).eval(), backend=bridge_backend, options={"target": "sm86"})
        with torch.no_grad(), contextlib.suppress(bridge.errors.EngineError, bridge.errors.EngineInputError):
            fast(x)
        (graph,) = bridge.report(fast).graphs
        assert graph.from_cache == [cached]


def test_errors_are_not_cached():
    class Unsupported(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    for _ in range(2):
        with pytest.raises(bridge.errors.UnsupportedOpError):
            bridge.compile(Unsupported().eval(), (torch.ones(2, 2),), target="sm86")
    assert not EngineCache.of(bridge.Config()).entries()


def test_no_cache_without_the_setting():
    assert EngineCache.of(bridge.Config(cache=False)) is None
    with pytest.raises(ValueError, match="cache_size is 0"):
        bridge.Config(cache_size=0)
    found = EngineCache.of(bridge.Config(cache_dir="/somewhere", cache_size=5))
    assert (found.folder, found.limit) == (Path("/somewhere"), 5)


def test_warnings_are_our_own():
    assert caches.logger is logging.getLogger("bridge")
    with pytest.raises(EngineFileError):
        EngineFile.load("/nowhere")
