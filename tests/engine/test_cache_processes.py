"""Processes and threads that want the same engine: one builds it."""

import errno
import fcntl
import logging
import signal
import threading
import time

from cache_entries import A, B, refuse


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
