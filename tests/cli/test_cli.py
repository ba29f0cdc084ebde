"""The command line: what it prints, where, and with which exit code."""

import json
import subprocess
import sys

import pytest
from command_runs import run, start

import bridge
from bridge import cli
from bridge.base.text import columns, size
from bridge.core.library import LIBRARIES
from bridge.errors import BuildError, EngineError, ExportError, FlavourError, LibraryError, UnsupportedOpError


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"bridge {bridge.__version__}\n", "")


def test_help_lists_commands_and_exit_codes(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(word in out for word in ("doctor", "ops", "compile", "explain", "130  interrupted"))


def test_a_closed_pipe_is_no_error(saved):
    process = start("explain", saved, "--layers")
    process.stdout.close()
    assert process.wait(60) in (0, 141)  # 0 where all was written before the pipe closed
    assert process.stderr.read() == ""


FLOOD = """
import sys
from bridge import cli

def flood(options):
    print("x" * 10_000_000)
    return 0

cli._COMMANDS["ops"] = (cli._add_ops, flood, "")
sys.exit(cli.main(["ops"]))
"""


def test_a_pipe_that_closes_while_a_command_writes():
    process = subprocess.Popen([sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(5) == "xxxxx"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


def test_a_bug_is_reported_in_a_line_and_traced_with_debug(capsys, monkeypatch):
    def fail(options):
        raise ZeroDivisionError("one over none")

    monkeypatch.setitem(cli._COMMANDS, "ops", (cli._add_ops, fail, ""))
    assert run(capsys, "ops") == (
        1,
        "",
        "bridge: ZeroDivisionError: one over none\nThis should not happen; --debug shows where.\n",
    )
    for arguments in (["--debug", "ops"], ["ops", "--debug"]):
        code, _, err = run(capsys, *arguments)
        assert code == 1
        assert "Traceback" in err
        assert 'raise ZeroDivisionError("one over none")' in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnsupportedOpError("aten.fft"), 3),
        (BuildError("refused"), 4),
        (ExportError("no"), 6),
        (FlavourError("none"), 7),
        (LibraryError("none"), 7),
        (EngineError("other"), 7),
        (bridge.BridgeError("some"), 1),
    ],
)
def test_exit_codes(capsys, monkeypatch, model, builder, error, expected):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(bridge, "compile", fail)
    assert run(capsys, "compile", model, "-q", "--target", "sm86") == (expected, "", f"bridge: {error}\n")


# ops


def test_ops(capsys):
    code, out, err = run(capsys, "ops")
    assert (code, err) == (0, "")
    for name, op in bridge.OPS.items():
        assert f"{name}: " in out
        assert op.schema_text() in out


def test_ops_as_json(capsys):
    rows = json.loads(run(capsys, "ops", "--json")[1])
    assert [row["name"] for row in rows] == sorted(bridge.OPS)
    dtypes = {row["name"]: row["dtypes"] for row in rows}
    assert dtypes.pop("preprocess") == ["uint8", "int8"]
    assert all(each == ["float32", "float16", "bfloat16"] for each in dtypes.values())
    built = LIBRARIES["bridge"].find("plugins") is not None
    assert all(row["lowerings"][:1] == (["plugin"] if built else []) for row in rows)


def test_one_op_with_its_documentation(capsys):
    code, out, _ = run(capsys, "ops", "rope")
    assert code == 0
    assert "rotary_dim: R; 0 means D." in out


# Tables


def test_columns():
    assert columns([("a", "bb", "c"), ("aaa", "b")]) == "  a    bb  c\n  aaa  b"
    assert columns([]) == ""
    assert columns([("a\nb", 1)], indent=0) == "'a\\nb'  1"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (2_340_000_000, "2.3 GB")],
)
def test_size(count, text):
    assert size(count) == text
