"""Tables and errors on a terminal: laid out for its width, coloured, and nothing lost; plain elsewhere."""

import io
import json
import re
import sys

import pytest

from bridge import cli
from bridge.base import terminal
from bridge.base.text import columns

ROWS = [
    ("key", "model", "plugins"),
    ("abcdef123456", "ResNet50 of a long name", "12 deform_conv2d, 3 relu"),
    ("0123", "größe", "none"),
]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def environment(monkeypatch):
    """A terminal of 60 columns that knows colours."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    return monkeypatch


def shown(rows, **settings):
    with terminal.shown_on(Terminal()):
        return columns(rows, **settings)


def letters(text):
    return sorted(re.sub(r"\x1b\[[0-9;]*m|\s", "", text))


def test_a_table_has_the_width_of_the_terminal_and_all_that_is_in_it(environment):
    environment.setenv("COLUMNS", "40")
    text = shown(ROWS, indent=2, heading=True, styles={"none": "green"})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert len(lines) > len(ROWS) and max(map(len, lines)) <= 40 and all(line.startswith("  ") for line in lines)
    assert letters(text) == letters("".join(cell for row in ROWS for cell in row))
    assert text.startswith("  \x1b[1mkey") and "\x1b[32mnone" in text


def test_a_wide_terminal_folds_nothing(environment):
    environment.setenv("COLUMNS", "100")
    lines = shown(ROWS, indent=0).splitlines()
    assert [line.rstrip() for line in lines] == columns(ROWS, indent=0).splitlines()


@pytest.mark.parametrize(("rows", "width"), [(ROWS, 20), (ROWS * 200, 60), ([], 60)])
def test_what_stays_plain(environment, rows, width):
    """Columns too narrow to read, tables that would take seconds, and none."""
    environment.setenv("COLUMNS", str(width))
    assert shown(rows, heading=True) == columns(rows)


def test_no_colour_where_none_is_wanted(environment):
    environment.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown(ROWS, styles={"none": "green"})
    environment.setenv("TERM", "dumb")
    assert "\x1b" not in shown(ROWS, heading=True, styles={"none": "green"})
    assert terminal.styled("bridge:", "bold red", Terminal()) == "bridge:"


def test_names_of_files_command_nothing(environment):
    text = shown([("a\x1b[2Jb", "[red]c[/red]", ":smile: 1.5")], indent=0)
    assert "\x1b" not in text and "'a\\x1b[2Jb'" in text and "[red]c[/red]" in text and ":smile: 1.5" in text


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_no_terminal(environment, stream):
    with terminal.shown_on(stream):
        assert columns(ROWS, heading=True) == columns(ROWS)
    closed = Terminal()
    closed.close()
    assert terminal.styled("x", "red", stream) == terminal.styled("x", "red", closed) == "x"


def test_commands_on_a_terminal(environment):
    out, err = Terminal(), Terminal()
    environment.setattr(sys, "stdout", out)
    environment.setattr(sys, "stderr", err)
    assert cli.main(["ops", "relu"]) == 0 and cli.main(["ops", "relu", "--json"]) == 0
    table, _, rows = out.getvalue().partition("[\n")
    assert max(map(len, table.partition("\n\n")[0].splitlines()[1:])) <= 60
    assert json.loads(f"[\n{rows}")[0]["name"] == "relu"
    assert cli.main(["ops", "rlu"]) == 2 and "\x1b[1;31mbridge ops: error:\x1b[0m there is no op rlu" in err.getvalue()
    assert columns(ROWS, indent=0).splitlines()[0] == "key           model                    plugins"
