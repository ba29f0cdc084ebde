"""The command `bridge bench`: what it lists, shows without a GPU, and refuses."""

import json

import pytest
import torch
from bench_rows import command, recorded, row

from bridge.bench import peers
from bridge.core.op import OPS


def test_a_run_can_be_shown_and_compared_without_a_gpu(capsys, tmp_path):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    before.write_text(json.dumps(recorded(row())))
    now.write_text(json.dumps(recorded(row(us=150.0))))
    code, out, _ = command(capsys, "--against", now, "--baseline", before)
    assert code == 1 and "relu, large, float16: 150.00 us, the baseline 100.00 us" in out
    assert command(capsys, "--against", before, "--baseline", before)[0] == 0


def test_lists(capsys):
    code, out, _ = command(capsys, "relu", "--list")
    assert code == 0 and "2^30 elements" in out and "rope  " in out.partition("peers")[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing"], f"no workload is of 'nothing'; there are {', '.join(sorted(OPS))}"),
        (["relu", "--workload", "nothing"], "no workload's name holds 'nothing'; there are 2^30 elements"),
        (["--peers", "nothing"], f"no peer is called 'nothing'; there are {min(each.name for each in peers.PEERS)}, "),
    ],
)
def test_wrong_names_are_answered_with_those_that_exist(capsys, arguments, text):
    code, _, err = command(capsys, *arguments)
    assert code == 2 and text in err


def test_a_baseline_that_is_not_there(capsys, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(recorded(row())))
    code, _, err = command(capsys, "--against", tmp_path / "run.json", "--baseline", "recorded")
    assert code == 2 and "there is no baseline nvidia_a_gpu.json; recorded in bridge are" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_says_so(capsys):
    code, _, err = command(capsys, "relu")
    assert code == 7 and "there is none" in err
