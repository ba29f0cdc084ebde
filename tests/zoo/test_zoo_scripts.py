"""What scripts say of themselves, where they are, and the processes that measure them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from zoo_models import needs_models, script

from bridge import cli
from bridge.errors import BridgeError
from bridge.zoo import entries, run


def test_scripts_are_read_and_not_run(tmp_path):
    script(tmp_path, "a", "raise ValueError\nZOO = [{'rank': 2, 'small': \"--x 'a b'\"}, {'rank': 1, 'part': 'p'}]")
    script(tmp_path, "b", "import nothing_of_that_name")
    first, second = entries.find(tmp_path)
    assert (first.name, second.name, second.small, second.full) == ("a, p", "a", ("--x", "a b"), ())
    assert entries.find(tmp_path, ["p", "no such"]) == [first]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ZOO = [{'smal': ''}]", "ZOO says smal; known are about, full"),
        ("ZOO = [dict(small='')]", "no list of dictionaries of constants"),
        ("ZOO = [3]", "no list of dictionaries of constants"),
        ("x = 1", "no script in .* has a list ZOO"),
        ("ZOO = [{}]", "no model's name holds 'nothing'; there are a"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    script(tmp_path, "a", text)
    with pytest.raises(BridgeError, match=message):
        entries.find(tmp_path, ["nothing" if "holds" in message else ""])


# Processes


@needs_models
def test_failures_are_rows(tmp_path):
    """A process that is killed, one that takes too long, one that raises, and one that there is no time for."""
    zoo = "ZOO = [{'rank': %d, 'small': '--a'}]\ndef bridge_model(argv):\n    import os, time, torch\n    %s\n"
    script(tmp_path, "killed", zoo % (1, "os.kill(os.getpid(), 11)"))
    script(tmp_path, "wrong", zoo % (2, "raise ValueError(f'got {argv}')"))
    kept = []
    settings = run.Settings(target="sm86", jobs=2, logs=tmp_path)
    result = run.run(entries.find(tmp_path), settings, lambda so_far, row: kept.append(len(so_far["rows"])))
    killed, wrong = (row["failed"] for row in result["rows"])
    assert killed == "its process ended by SIGSEGV"
    assert wrong.startswith("ModelFileError:") and "got ['--a']" in wrong
    assert "Traceback" in (tmp_path / "wrong.log").read_text()
    assert kept == [1, 2] and json.loads(json.dumps(result)) == result
    slow = run.run(entries.find(tmp_path, ["wrong"]), run.Settings(limit=0.5), lambda *_: None)
    assert [row["failed"] for row in slow["rows"]] == ["not done after 0.5 s"]
    late = run.run(entries.find(tmp_path), run.Settings(within=1e-9), lambda *_: None)
    assert {row["failed"] for row in late["rows"]} == {"not begun: 1e-09 s were over"}


def test_a_run_that_is_ended_has_what_was_done(tmp_path):
    """By SIGTERM, as `timeout` sends it."""
    scripts, kept = tmp_path / "scripts", tmp_path / "zoo.json"
    scripts.mkdir()
    zoo = "ZOO = [{'rank': %d}]\ndef bridge_model(argv):\n    import os, time\n    %s\n"
    script(scripts, "quick", zoo % (1, "raise ValueError('quick')"))
    script(scripts, "slow", zoo % (2, f"open({str(tmp_path / 'begun')!r}, 'w'); time.sleep(600)"))
    script(scripts, "never", zoo % (3, "raise ValueError('never')"))
    flags = ["--models", str(scripts), "--json", str(kept), "--target", "sm86"]
    command = [sys.executable, "-m", "bridge.cli", "zoo", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for _ in range(600):
            if (tmp_path / "begun").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 1, said
    failed = {row["model"]: row["failed"] for row in json.loads(kept.read_text())["rows"]}
    assert "ValueError: quick" in failed["quick"]
    assert failed["slow"] == "not done: the run was stopped" and failed["never"] == "not begun: the run was stopped"


def test_what_was_under_way_failed():
    row = {"model": "m", "ways": {"bridge": {"us": 1.0}, "inductor": {"running": True}}}
    assert run._finished_row(row, "killed") == {
        "model": "m",
        "ways": {"bridge": {"us": 1.0}, "inductor": {"failed": "killed"}},
    }
    assert run._finished_row({"model": "m"}, "killed") == {"model": "m", "failed": "killed"}
    assert run._finished_row({"model": "m", "failed": "first"}, "killed")["failed"] == "first"
    done = {"model": "m", "ways": {"bridge": {"us": 1.0}}}
    assert run._finished_row({**done, "complete": True}, "not done after 300 s") == done


# The command


def test_scripts_are_beside_the_package_or_in_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "bridge"
    monkeypatch.setattr(entries.bridge, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(entries, "__file__", str(package / "zoo" / "entries.py"))
    with pytest.raises(entries.ZooError, match=r"no model scripts in .*site/models or .*zoo/models; --models names"):
        entries.folder()
    (tmp_path / "site" / "models").mkdir(parents=True)  # of another package
    installed, beside = package / "zoo" / "models", tmp_path / "site" / "models"
    installed.mkdir(parents=True)
    (installed / "common.py").touch()
    assert entries.folder() == installed
    (beside / "common.py").touch()
    assert entries.folder() == beside


def test_command_line(capsys):
    assert cli.main(["zoo", "--list", "--filter", "detr", "no such"]) == 0
    captured = capsys.readouterr()
    assert f"scripts in {entries.folder()}" in captured.err
    lines = captured.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["deformable_detr", "rt_detr"] and "--hidden 32" in lines[0]
    assert cli.main(["zoo", "--filter", "nothing"]) == 2
    assert "no model's name holds 'nothing'" in capsys.readouterr().err
    assert cli.main(["zoo", "--models", os.devnull]) == 1
