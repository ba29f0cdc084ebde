"""What `bridge sanitize` makes of the calls and of a tool's output."""

import json

import pytest
import torch

from bridge import cli
from bridge.core.library import LIBRARIES
from bridge.testing import kernel_calls, sanitize
from bridge.testing.sanitizer_calls import Job

RACE = """
rope, torch.float16, tactic -1, aligned: a
========= Error: Race reported between Write access at void bridge::rope_kernel<__half, float>(T1)+0x10
=========     and Read access at void bridge::rope_kernel<__half, float>(T1)+0x20 [8 hazards]
2 calls
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
CLEAN = "412 calls\n========= ERROR SUMMARY: 0 errors\n"


def job(*names):
    return Job("bridge", names, "samples")


@pytest.mark.parametrize(
    ("code", "output", "verdict"),
    [
        (0, CLEAN, (True, "none in 412 calls")),
        (86, CLEAN.replace("0 err", "3 err"), (False, "in 412 calls, exit code 86, 3 found")),
        (1, CLEAN, (False, "in 412 calls, exit code 1, 0 found")),
        (0, RACE, (False, "in 2 calls, exit code 0, 1 found: rope_kernel in 2 lines")),
        (1, "rope, x: y\nImportError: no\n\n", (False, "broke off with exit code 1: ImportError: no, 0 found")),
        (0, "2 calls\n", (False, "broke off with exit code 0: 2 calls, 0 found")),
        (127, "", (False, "broke off with exit code 127: it wrote nothing, 0 found")),
    ],
)
def test_a_tool_is_judged_by_all_that_it_says(code, output, verdict):
    assert sanitize.judge(code, output) == verdict


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The script that is found as compute-sanitizer, on what says it is a machine with a GPU."""
    script = tmp_path / "compute-sanitizer"
    script.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return script


def sanitize_command(folder, *arguments):
    return cli.main(["sanitize", "--samples", "samples", "--logs", str(folder / "logs"), *arguments])


def test_one_line_a_tool_and_a_log(tool, tmp_path, capsys):
    tool.write_text(f'#!/bin/sh\necho "$PYTORCH_NO_CUDA_MEMORY_CACHING $*"\nprintf "{CLEAN}"\n')
    assert sanitize_command(tmp_path, "--tools", "memcheck,initcheck", "rope") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "memcheck   none in 412 calls",
        "initcheck  none in 412 calls",
    ]
    log = (tmp_path / "logs" / "initcheck.log").read_text()
    assert log.startswith("1 --tool initcheck")
    assert "-m bridge.testing.sanitizer_calls bridge rope --import bridge.ops" in log
    assert log.splitlines()[0].endswith("--samples samples --share 1/1")
    assert sanitize_command(tmp_path, "--tools", "racecheck", "--jobs", "3") == 0
    assert sum("none in 412 calls" in line for line in capsys.readouterr().out.splitlines()) == 3
    assert "--share 2/3" in (tmp_path / "logs" / "racecheck-2-of-3.log").read_text()
    assert sanitize_command(tmp_path, "--tools", "racecheck", "--jobs", "2", "--part", "3/5") == 0
    shares = [(tmp_path / "logs" / f"racecheck-{number}-of-2.log").read_text() for number in (1, 2)]
    assert "--share 3/10" in shares[0] and "--share 8/10" in shares[1]  # every tenth is every second of every fifth
    tool.write_text("#!/bin/sh\nexit 3\n")
    assert sanitize_command(tmp_path) == 1
    out = capsys.readouterr().out
    assert out.count("broke off with exit code 3: it wrote nothing") == 4


def test_one_share_that_finds_something_is_enough(tool, tmp_path, capsys):
    tool.write_text(f'#!/bin/sh\nprintf "{CLEAN}"\ncase "$*" in *2/3*) exit 86;; esac\n')
    assert not sanitize.Runner(job("rope"), tmp_path, 3).check("racecheck")
    assert "racecheck-2-of-3 in 412 calls, exit code 86" in capsys.readouterr().out


CALLS = """\
while [ "$1" ]; do
  case "$1" in --share) share=$2;; --kernels) file=$2;; esac
  shift
done
case $share in
  1/2) echo '{"0": ["x", ["a, True"]], "2": ["y", ["a, True", "b, True"]]}' > "$file";;
  2/2) echo '{"1": ["z", ["b, False"]], "3": ["w", []]}' > "$file"; exit CODE;;
esac
"""


@pytest.fixture
def calls(tool, tmp_path, monkeypatch):
    """The script that makes the calls; the tool finds nothing."""
    script = tmp_path / "calls"
    monkeypatch.setattr(Job, "command", lambda job: ["/bin/sh", str(script)])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    tool.write_text(f'#!/bin/sh\necho "$*"\nprintf "{CLEAN}"\n')
    return script


def raising(error):
    def raises(*arguments):
        raise error

    return raises


def test_few_calls_that_launch_each_kernel(calls, tmp_path, monkeypatch, capsys):
    command = [tmp_path, "--tools", "memcheck", "--jobs", "2", "--each-kernel", "rope"]
    calls.write_text(CALLS.replace("CODE", "0"))
    monkeypatch.setattr(kernel_calls, "of_library", raising(FileNotFoundError("no tool")))
    assert sanitize_command(*command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 kernels in 4 calls; 2 of them launch each, aligned and not"
    assert lines[1] == "how many kernels the library has is not known: no tool"
    assert json.loads((tmp_path / "logs" / "calls.json").read_text()) == {"1": "z", "2": "y"}
    log = (tmp_path / "logs" / "memcheck-2-of-2.log").read_text()
    assert f"--share 2/2 --only {tmp_path / 'logs' / 'calls.json'}" in log
    calls.write_text(CALLS.replace("CODE", "3"))
    assert sanitize_command(*command) == 1
    assert "the calls broke off with exit code 3 before any tool; see" in capsys.readouterr().err
    calls.write_text("""for last; do :; done; echo "{}" > "$last"\n""")
    assert sanitize_command(*command) == 1
    assert "saw no kernel in 0 calls" in capsys.readouterr().err


def test_kernels_of_the_library_that_no_call_launches(calls, tmp_path, monkeypatch, capsys):
    calls.write_text(CALLS.replace("CODE", "0"))
    asked, missing = [], tmp_path / "logs" / "not_launched.json"
    monkeypatch.setattr(kernel_calls, "of_library", lambda *given: asked.append(given) or ["a", "b", "c"])
    assert sanitize_command(tmp_path, "--tools", "memcheck", "--jobs", "2", "--each-kernel", "relu") == 0
    text = f"2 of the library's 3 kernels for this GPU; {missing} names the others"
    assert capsys.readouterr().out.splitlines()[1] == text
    assert json.loads(missing.read_text()) == ["c"] and asked == [(LIBRARIES["bridge"].find("torch"), (9, 0))]
    monkeypatch.setattr(kernel_calls, "of_library", lambda *given: ["a", "b"])
    assert sanitize_command(tmp_path, "--tools", "memcheck", "--jobs", "2", "--each-kernel", "relu") == 0
    assert capsys.readouterr().out.splitlines()[1] == "2 of the library's 2 kernels for this GPU"
    assert json.loads(missing.read_text()) == []


def test_wrong_names_and_what_is_missing(tool, tmp_path, monkeypatch, capsys):
    assert sanitize_command(tmp_path, "rop") == 2
    assert (
        f"no op of bridge is called 'rop'; there are {', '.join(sorted(LIBRARIES['bridge'].ops))}"
        in capsys.readouterr().err
    )
    assert sanitize_command(tmp_path, "--library", "nothing") == 7
    assert "there is no library nothing" in capsys.readouterr().err
    assert cli.main(["sanitize", "relu"]) == 2
    assert "relu has no samples: define relu_samples() in bridge.ops.relu" in capsys.readouterr().err
    wrong_options = {"--tools memcheck,valgrind": "no tool is called valgrind", "--jobs 0": "jobs are 1 or more"}
    for wrong, text in wrong_options.items():
        with pytest.raises(SystemExit):
            sanitize_command(tmp_path, *wrong.split())
        assert text in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert sanitize_command(tmp_path) == 7
    assert "kernels on a CUDA GPU, and there is none" in capsys.readouterr().err
    monkeypatch.setattr(kernel_calls.shutil, "which", lambda name, path: None)
    assert sanitize_command(tmp_path) == 7
    assert "no compute-sanitizer on PATH" in capsys.readouterr().err
