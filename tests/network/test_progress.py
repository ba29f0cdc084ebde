"""How a build reports itself on stderr."""

import io
import os
import threading

import pytest

from bridge.tensorrt.network import build
from bridge.tensorrt.network.progress import Report

CLEAR = "\r\x1b[K"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Every step rewrites the line."""
    monkeypatch.setattr("bridge.tensorrt.network.progress._REWRITE_SECONDS", 0)


def test_one_line_is_rewritten_on_a_terminal_and_cleared():
    terminal = Terminal()
    report = Report(terminal)
    report.start("Building engine", 4)
    report.start("Timing tactics", 2)
    assert report.step("Timing tactics") is True
    report.cancelled.set()
    assert report.step("Timing tactics") is False
    report.finish("Timing tactics")
    report.finish("Building engine")
    written = terminal.getvalue()
    assert "[bridge] building, 0 s, step 1 of 4: Timing tactics" in written
    assert "\n" not in written and written.endswith(CLEAR)


def test_the_seconds_go_on_between_steps(monkeypatch):
    terminal = Terminal()
    report = Report(terminal)
    report.tick()
    assert terminal.getvalue() == ""
    report.start("Building engine", 4)
    report.tick()
    report._started -= 90
    report.tick()
    assert [line.rpartition("building, ")[2] for line in terminal.getvalue().split(CLEAR)[1:]] == [
        "0 s, step 1 of 4: Building engine",
        "90 s, step 1 of 4: Building engine",
    ]


def test_a_build_that_ends_in_the_middle_leaves_no_line():
    terminal = Terminal()
    report = Report(terminal)
    report.start("Building engine", 4)
    report.step("Building engine")
    report.close()
    report.tick()
    assert terminal.getvalue().endswith(CLEAR)


def test_a_line_never_wraps(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: 5)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((40, 24)))
    report = Report(terminal)
    report.start("Timing the tactics of a layer with a very long name", 1)
    report.tick()
    assert terminal.getvalue() == CLEAR + "[bridge] building, 0 s, step 1 of 1: T…"
    assert len(terminal.getvalue()) == len(CLEAR) + 39


def test_off_a_terminal_there_is_a_line_for_each_major_phase():
    stream = io.StringIO()
    report = Report(stream)
    report.start("Building engine", 2)
    report.start("Preparing graph", 1)
    report.start("Timing tactics", 1)
    report.tick()
    for phase in ("Timing tactics", "Preparing graph", "Building engine"):
        report.step(phase)
        report.finish(phase)
    report.close()
    assert stream.getvalue() == "[bridge] Preparing graph (0 s)\n"


def test_it_can_be_silent():
    report = Report(None)
    report.start("Building engine", 1)
    assert report.step("Building engine") and report.step("a phase that never began")
    report.tick()
    report.finish("Building engine")
    report.close()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_closes_is_no_error(kind):
    stream = kind()
    report = Report(stream)
    stream.close()
    report._rewrites = kind is Terminal
    report.start("Building engine", 2)
    report.start("Preparing graph", 1)
    assert report.step("Preparing graph")
    report.close()


def test_the_waiting_thread_ticks():
    ticked = threading.Event()
    assert build._interruptible(lambda: ticked.wait(30), lambda: None, ticked.set) is True
