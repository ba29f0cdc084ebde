"""What the script of `make sanitize` calls and makes of a tool's output; on a GPU also the calls."""

import pytest
import sanitize
import torch
from samples import deform_conv2d, relu

from bridge.core.op import OPS
from bridge.testing import cast

RACE = """
rope, torch.float16, tactic -1, aligned: a
========= Error: Race reported between Write access at void bridge::rope_kernel<__half, float>(T1)+0x10
=========     and Read access at void bridge::rope_kernel<__half, float>(T1)+0x20 [8 hazards]
2 calls
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
CLEAN = "412 calls\n========= ERROR SUMMARY: 0 errors\n"


def test_samples_of_every_op_are_found():
    assert all(sanitize.samples_of(name) for name in OPS)
    found = sanitize.samples_of("deform_conv2d")
    assert len(found) == len(deform_conv2d.samples()) + 2 * len(deform_conv2d.further())
    assert found[-1][2]["allow_tf32"] and len(sanitize.samples_of("relu")) == len(relu.samples())
    assert sanitize.dtypes_of("rope") == [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("name", OPS)
def test_tactics_are_asked_of_the_plugin(name):
    for _, args, kwargs in sanitize.samples_of(name):
        found = sanitize.tactics(OPS[name], cast(args, torch.float16), kwargs)
        assert found[0] == -1 and len(set(found)) == len(found)


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
    """The script that is found as compute-sanitizer; logs go beside it."""
    script = tmp_path / "compute-sanitizer"
    script.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sanitize, "LOGS", tmp_path / "logs")
    return script


def test_one_line_a_tool_and_a_log(tool, tmp_path, monkeypatch, capsys):
    tool.write_text(f'#!/bin/sh\necho "$PYTORCH_NO_CUDA_MEMORY_CACHING $*"\nprintf "{CLEAN}"\n')
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert sanitize.main(["--tools", "memcheck,initcheck", "rope"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "memcheck   none in 412 calls",
        "initcheck  none in 412 calls",
    ]
    log = (tmp_path / "logs" / "initcheck.log").read_text()
    assert log.startswith("1 --tool initcheck") and log.splitlines()[0].endswith("sanitize.py --share 1/1 rope")
    assert sanitize.main(["--tools", "racecheck", "--jobs", "3"]) == 0
    assert sum("none in 412 calls" in line for line in capsys.readouterr().out.splitlines()) == 3
    assert "--share 2/3" in (tmp_path / "logs" / "racecheck-2-of-3.log").read_text()
    tool.write_text("#!/bin/sh\nexit 3\n")
    assert sanitize.main(["--tools", "memcheck"]) == 1
    assert "broke off with exit code 3: it wrote nothing" in capsys.readouterr().out


def test_shares_are_all_calls_once(monkeypatch, capsys):
    monkeypatch.setattr(sanitize, "call", lambda *how: None)
    counts = [sanitize.run(["rope", "roi_align"], share, 4) for share in range(4)]
    parts = capsys.readouterr().out.splitlines()
    assert sanitize.run(["rope", "roi_align"]) == sum(counts) == len(parts) and max(counts) - min(counts) <= 1
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(parts)


def test_one_share_that_finds_something_is_enough(tool, capsys):
    tool.write_text(f'#!/bin/sh\nprintf "{CLEAN}"\ncase "$*" in *2/3*) exit 86;; esac\n')
    assert not sanitize.check("racecheck", ["rope"], jobs=3)
    assert "racecheck-2-of-3 in 412 calls, exit code 86" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--share", "0/3"], ["--share", "4/3"], ["--share", "x"], ["--jobs", "0"]])
def test_shares_that_are_none(wrong):
    with pytest.raises(SystemExit):
        sanitize.main(wrong)


def test_wrong_names_and_what_is_missing(tmp_path, monkeypatch, capsys):
    assert sanitize.main(["rop"]) == 2
    assert f"no op is called 'rop'; there are {', '.join(sorted(OPS))}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sanitize.main(["--tools", "memcheck,valgrind"])
    assert "no tool is called valgrind; there are memcheck" in capsys.readouterr().err
    monkeypatch.setattr(sanitize.shutil, "which", lambda name, path: None)
    with pytest.raises(FileNotFoundError, match="no compute-sanitizer on PATH"):
        sanitize.sanitizer({})


def test_what_is_not_aligned_holds_the_same(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.clone)
    for shape in [(), (0, 3), (2, 3)]:
        tensor = torch.randn(shape)
        copy = sanitize.on_gpu(tensor, aligned=False)
        assert torch.equal(copy, tensor) and copy.is_contiguous() and copy.storage_offset() == 1


@pytest.mark.gpu
def test_the_calls_run(capsys, monkeypatch):
    every = sanitize.samples_of
    monkeypatch.setattr(sanitize, "samples_of", lambda name: every(name)[:: max(1, len(every(name)) // 6)])
    assert sanitize.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} calls" and any("float16, tactic 1, not" in line for line in lines)
