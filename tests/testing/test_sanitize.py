"""What `bridge sanitize` calls and makes of a tool's output; on a GPU also the calls."""

import json
from types import SimpleNamespace

import pytest
import torch
from samples import deform_conv2d, relu

from bridge import cli
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS, written
from bridge.testing import cast, kernel_calls, sanitize, sanitizer_calls
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


def test_samples_of_every_op_are_found():
    assert all(sanitizer_calls.every_sample(op, "samples") for op in written().values())
    found = sanitizer_calls.every_sample(OPS["deform_conv2d"], "samples")
    assert len(found) == len(deform_conv2d.samples()) + 2 * len(deform_conv2d.further())
    assert found[-1][2]["allow_tf32"]
    assert len(sanitizer_calls.every_sample(OPS["relu"], "samples")) == len(relu.samples())


@pytest.mark.parametrize("name", OPS)
def test_tactics_are_asked_of_the_plugin(name):
    for _, args, kwargs in sanitizer_calls.every_sample(OPS[name], "samples"):
        tensors, attributes = OPS[name].bind(cast(args, torch.float16), kwargs)
        found = sanitizer_calls.tactics(OPS[name], tensors, attributes)
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


def test_shares_are_all_calls_once(monkeypatch, capsys):
    monkeypatch.setattr(sanitizer_calls, "call", lambda *how: None)
    made = list(sanitizer_calls.calls(job("rope", "roi_align")))  # takes most of the time: once for the shares
    with monkeypatch.context() as patch:
        patch.setattr(sanitizer_calls, "calls", lambda job: iter(made))
        counts = [sanitizer_calls.run(job("rope", "roi_align"), share, 4) for share in range(4)]
    parts = capsys.readouterr().out.splitlines()
    assert sanitizer_calls.run(job("rope", "roi_align")) == sum(counts) == len(parts)
    assert max(counts) - min(counts) <= 1
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(parts)


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
  1/2) echo '{"0": ["a, True"], "2": ["a, True", "b, True"]}' > "$file";;
  2/2) echo '{"1": ["b, False"], "3": []}' > "$file"; exit CODE;;
esac
"""


def test_few_calls_that_launch_each_kernel(tool, tmp_path, monkeypatch, capsys):
    script = tmp_path / "calls"
    monkeypatch.setattr(Job, "command", lambda job: ["/bin/sh", str(script)])
    script.write_text(CALLS.replace("CODE", "0"))
    tool.write_text(f'#!/bin/sh\necho "$*"\nprintf "{CLEAN}"\n')
    command = [tmp_path, "--tools", "memcheck", "--jobs", "2", "--each-kernel", "rope"]
    assert sanitize_command(*command) == 0
    assert capsys.readouterr().out.startswith("2 kernels in 4 calls; 2 of them launch each, aligned and not\n")
    assert json.loads((tmp_path / "logs" / "calls.json").read_text()) == [1, 2]
    log = (tmp_path / "logs" / "memcheck-2-of-2.log").read_text()
    assert f"--share 2/2 --only {tmp_path / 'logs' / 'calls.json'}" in log
    script.write_text(CALLS.replace("CODE", "3"))
    assert sanitize_command(*command) == 1
    assert "the calls broke off with exit code 3 before any tool; see" in capsys.readouterr().err
    script.write_text("""for last; do :; done; echo "{}" > "$last"\n""")
    assert sanitize_command(*command) == 1
    assert "saw no kernel in 0 calls" in capsys.readouterr().err


def test_a_call_is_chosen_for_its_rarest_kernel():
    launched = {0: ["a"], 1: ["a", "b"], 2: ["a", "b", "c"], 3: ["d"], 4: ["b", "d"], 5: []}
    assert kernel_calls.few(launched) == [2, 3]
    assert kernel_calls.few({}) == []


def test_kernels_belong_to_the_call_in_which_they_began():
    def event(name, start, device):
        return SimpleNamespace(
            name=name, time_range=SimpleNamespace(start=start), device_type=SimpleNamespace(name=device)
        )

    events = [
        event("bridge call 7", 10, "CPU"),
        event("bridge call 9", 20, "CPU"),
        event("bridge call 9", 21, "CUDA"),
        event("aten::add", 12, "CPU"),
        *[event("one", start, "CUDA") for start in (15, 19.5, 20.5)],
        event("two", 30, "CUDA"),
        event("Memcpy HtoD (Pageable -> Device)", 31, "CUDA"),
    ]
    assert kernel_calls._kernels(events) == {7: ["one"], 9: ["one", "two"]}


def test_only_the_calls_that_are_asked_for(monkeypatch, tmp_path, capsys):
    made = [(str(number), OPS["relu"], (), {}, -1, True) for number in range(10)]
    monkeypatch.setattr(sanitizer_calls, "calls", lambda job: iter(made))
    monkeypatch.setattr(sanitizer_calls, "call", lambda *how: None)
    (tmp_path / "only.json").write_text("[1, 3, 5, 8]")
    assert sanitizer_calls.main(["bridge", "--share", "2/2", "--only", str(tmp_path / "only.json")]) == 0
    assert capsys.readouterr().out.splitlines() == ["3", "8", "2 calls"]


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "x"])
def test_shares_that_are_none(wrong, capsys):
    with pytest.raises(SystemExit):
        sanitizer_calls.main(["bridge", "--share", wrong])
    assert f"a share is as 2/8, the second of eight, not '{wrong}'" in capsys.readouterr().err


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
    monkeypatch.setattr(sanitize.shutil, "which", lambda name, path: None)
    assert sanitize_command(tmp_path) == 7
    assert "no compute-sanitizer on PATH" in capsys.readouterr().err


def test_a_job_runs_in_another_process(capsys):
    command = job("relu").command()
    assert command[1:5] == ["-m", "bridge.testing.sanitizer_calls", "bridge", "relu"]
    assert command[5] == "--import" and command[7:] == ["--samples", "samples"]
    assert job("relu").environment() == {"BRIDGE_LIBRARY_DIR": str(LIBRARIES["bridge"].find("torch").parent)}


def test_what_is_not_aligned_holds_the_same(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.clone)
    for shape in [(), (0, 3), (2, 3)]:
        tensor = torch.randn(shape)
        copy = sanitizer_calls.on_gpu(tensor, aligned=False)
        assert torch.equal(copy, tensor) and copy.is_contiguous() and copy.storage_offset() == 1


@pytest.mark.gpu
def test_the_calls_run(capsys, monkeypatch):
    every = sanitizer_calls.samples_of
    monkeypatch.setattr(sanitizer_calls, "samples_of", lambda op, where: every(op, where)[::9])
    assert sanitizer_calls.main(["bridge", "--samples", "samples"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} calls" and any("float16, tactic 1, not" in line for line in lines)


@pytest.mark.gpu
def test_kernels_of_the_calls_are_seen(tmp_path):
    assert (
        sanitizer_calls.main(["bridge", "relu", "--samples", "samples", "--kernels", str(tmp_path / "found.json")]) == 0
    )
    found = {int(number): names for number, names in json.loads((tmp_path / "found.json").read_text()).items()}
    names = {name for names in found.values() for name in names}
    assert any("relu" in name and name.endswith(", True") for name in names)
    assert any("relu" in name and name.endswith(", False") for name in names)
    assert len(kernel_calls.few(found)) < len(found)
