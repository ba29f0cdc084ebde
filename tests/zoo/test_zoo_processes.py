"""Models' processes: while one measures, the others are stopped."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from bridge.zoo.processes import Processes

WORKING = "import os, time\nwhile True: os.write(1, b'.'); time.sleep(0.001)"
MEASURING = """import pathlib, sys, time
from bridge.zoo.measuring_lock import MeasuringLock
folder = pathlib.Path(sys.argv[1])
with MeasuringLock(int(sys.argv[2])).alone():
    (folder / 'measures').touch()
    while not (folder / 'enough').exists(): time.sleep(0.01)
(folder / 'measured').touch()
time.sleep(600)"""


def waited_for(condition):
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def started(tmp_path):
    """Starts a process of Python code; its output is a file of the name given."""
    processes = Processes()
    with contextlib.ExitStack() as stack:

        def start(name, code, *arguments):
            output = stack.enter_context((tmp_path / name).open("wb"))
            return stack.enter_context(processes.one([sys.executable, "-c", code, *arguments], output, os.environ))

        yield start


def works(path):
    before = path.stat().st_size
    return waited_for(lambda: path.stat().st_size > before)


def stands_still(path):
    before = path.stat().st_size
    time.sleep(0.3)
    return path.stat().st_size == before


@pytest.mark.parametrize("killed", [False, True])
def test_who_measures_is_alone(started, tmp_path, killed):
    """Others go on when it is done, and when it is killed before."""
    started("first", WORKING)
    assert works(tmp_path / "first")
    measuring = started("measuring", MEASURING, str(tmp_path))
    assert waited_for((tmp_path / "measures").exists)
    started("second", WORKING)
    assert stands_still(tmp_path / "first") and (tmp_path / "second").stat().st_size == 0
    if killed:
        measuring.kill()
    else:
        (tmp_path / "enough").touch()
        assert waited_for((tmp_path / "measured").exists)
    assert works(tmp_path / "first") and works(tmp_path / "second")


def test_one_measures_at_a_time(started, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        started(f"{folder.name}.log", MEASURING, str(folder))

    def measuring():
        return [each for each in folders if (each / "measures").exists() and not (each / "enough").exists()]

    for _ in folders:
        assert waited_for(measuring)
        time.sleep(0.3)
        (one,) = measuring()
        (one / "enough").touch()
        assert waited_for((one / "measured").exists)


LOCKED = """import sys
from bridge.zoo.measuring_lock import MeasuringLock
lock = MeasuringLock(int(sys.argv[1]))"""
RUN = """import os, pathlib, subprocess, sys, time
from bridge.zoo.processes import Processes
with open(sys.argv[1], 'wb') as file, Processes().one([sys.executable, '-c', sys.argv[2]], file, os.environ) as process:
    print(process.pid, flush=True)
    time.sleep(600)"""


def test_a_process_ends_with_its_run(started, tmp_path):
    """A run that is killed can end nothing itself, and what it stopped would stay."""
    run = started("run", RUN, str(tmp_path / "child"), f"{LOCKED}\n{WORKING}")
    assert waited_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").stat().st_size > 0)
    pid = int((tmp_path / "run").read_text())
    os.kill(pid, signal.SIGSTOP)
    run.kill()
    assert waited_for(lambda: not _alive(pid))


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
