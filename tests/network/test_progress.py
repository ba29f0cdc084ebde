"""How a build reports itself on stderr."""

import io
import re
import threading

import pytest

from bridge.tensorrt.network import build
from bridge.tensorrt.network.progress import Report

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CLEARED = "\x1b[1A\x1b[2K"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def lines(self):
        """What was shown, one after the other in the same line."""
        return [line.strip() for line in re.split(r"[\r\n]+", CODES.sub("", self.getvalue())) if line.strip()]


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Every step rewrites the line, of 100 columns."""
    monkeypatch.setattr("bridge.tensorrt.network.progress._REWRITE_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_one_line_is_rewritten_on_a_terminal_and_cleared():
    terminal = Terminal()
    report = Report(terminal)
    report.start("Building engine", 4)
    report.start("Timing tactics", 2)
    assert report.step("Timing tactics") is True
    report.step("Building engine")
    report.cancelled.set()
    assert report.step("Timing tactics") is False
    report.finish("Timing tactics")
    report.finish("Building engine")
    assert all(line.startswith("[bridge] building, 0 s ") for line in terminal.lines())
    assert "step 1 of 4: Timing tactics" in terminal.lines()[0] and "step 2 of 4: " in terminal.lines()[-1]
    assert terminal.getvalue().endswith(CLEARED)


def test_the_seconds_go_on_between_steps():
    terminal = Terminal()
    report = Report(terminal)
    report.tick()
    assert terminal.getvalue() == ""
    report.start("Building engine", 4)
    report.tick()
    report._started -= 90
    report.tick()
    assert terminal.lines()[0].startswith("[bridge] building, 0 s ")
    assert terminal.lines()[-1].startswith("[bridge] building, 90 s ")


def test_a_build_that_ends_in_the_middle_leaves_no_line():
    terminal = Terminal()
    report = Report(terminal)
    report.start("Building engine", 4)
    report.step("Building engine")
    report.close()
    report.tick()
    assert terminal.getvalue().endswith(CLEARED)


@pytest.mark.parametrize("width", [40, 10])
def test_a_line_never_wraps_and_names_command_nothing(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    report = Report(terminal)
    report.start("Timing the tactics of a layer with a very long name \x1b[2J", 1)
    report.tick()
    assert terminal.lines() and max(map(len, terminal.lines())) <= width and "\x1b[2J" not in terminal.getvalue()


def test_a_terminal_that_clears_no_lines_gets_whole_ones(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    report = Report(terminal)
    report.start("Building engine", 2)
    report.start("Preparing\x1b[2J", 1)
    report.tick()
    assert terminal.getvalue() == "[bridge] 'Preparing\\x1b[2J' (0 s)\n"


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
    report.start("Building engine", 2)
    report.start("Preparing graph", 1)
    assert report.step("Preparing graph")
    report.close()


def test_the_waiting_thread_ticks():
    ticked = threading.Event()
    assert build._interruptible(lambda: ticked.wait(30), lambda: None, ticked.set) is True
