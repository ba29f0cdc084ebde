"""Tables of bridge bench, and what is recorded, compared with, and refused as a baseline."""

import copy
import json
import re

import pytest
from bench_rows import CEILINGS, command, recorded, row

from bridge.bench import baseline, measure, report, workloads


def test_the_table_shows_times_peers_and_what_is_missing():
    run = recorded(row(peers=row()["peers"] | {"mmcv": {"missing": "not installed"}}), row("wrong", right=False))
    text = report.table(run)
    assert "NVIDIA A GPU, driver 1.2, 2026-01-02" in text and "4.00 TB/s" in text
    assert "80%" in text and "eager 200.0 (2.00x)" in text
    far = row(peers={"mmcv": {"us": 150.0, "bound": False, "difference": 0.31}})
    assert "mmcv 150.0 (1.50x, differs by 0.31)" in report.table(recorded(far))
    assert "mmcv: not installed" in text and "WRONG: relu, wrong, float16" in text


def test_no_share_is_above_all_of_the_floor():
    """Of a run whose ceilings say less than what was reached, as older ones may."""
    text = report.table(recorded(row("slow"), row("fast", us=79.0), row("bound", floor="L2")))
    shares = [line.split()[-5:] for line in text.splitlines() if line.startswith("relu")]
    assert "80%" in text and "101%" not in text and "80.00 L2" in text, shares
    assert "no floor: the ceilings of this run are lower than what these reached\n  relu, fast, float16" in text


def test_a_baseline_flags_what_is_slower_missing_or_wrong():
    before = recorded(row("a"), row("b"), row("c"), row("d"))
    run = recorded(row("a", 104.0), row("b", 106.0), row("d", right=False))
    assert report.regressions(run, before) == [
        "relu, b, float16: 106.00 us, the baseline 100.00 us",
        "relu, c, float16: not in this run",
        "relu, d, float16: wrong, error 1.0e-04",
    ]
    assert not report.regressions(before, copy.deepcopy(before))


def test_the_spread_of_the_baseline_is_noise():
    before = recorded(row("a", low_us=90.0, high_us=120.0))
    assert not report.regressions(recorded(row("a", 129.0)), before)
    assert report.regressions(recorded(row("a", 131.0)), before)


def test_a_baseline_of_another_gpu_is_refused():
    with pytest.raises(ValueError, match="the baseline is of NVIDIA B, and this run of NVIDIA A GPU"):
        report.regressions(recorded(), recorded(gpu="NVIDIA B"))
    with pytest.raises(ValueError, match="schema 0"):
        report.regressions(recorded(), recorded() | {"schema": 0})


# What is recorded


@pytest.fixture
def baselines(tmp_path, monkeypatch):
    """An empty folder in the place of bridge's own."""
    monkeypatch.setattr(baseline, "FOLDER", tmp_path / "baselines")
    return baseline.FOLDER


def complete(**changes):
    """A run of every default workload."""
    return recorded(*(row(w.name, op=w.op, dtype=w.dtype) for w in workloads.select())) | changes


def test_a_run_is_recorded_and_compared_with(capsys, tmp_path, baselines):
    run, slower = tmp_path / "run.json", tmp_path / "slower.json"
    run.write_text(json.dumps(complete()))
    code, out, _ = command(capsys, "--against", run, "--record")
    assert code == 0 and f"recorded in {baselines / 'nvidia_a_gpu.json'}" in out
    assert json.loads((baselines / "nvidia_a_gpu.json").read_text()) == complete()
    rows = complete()["rows"]
    slower.write_text(json.dumps(complete(rows=[rows[0] | {"us": 200.0}, *rows[1:]])))
    code, out, _ = command(capsys, "--against", slower, "--baseline", "recorded")
    assert code == 1 and out.count("the baseline 100.00 us") == 1


def test_parts_of_a_run_are_recorded_together(capsys, tmp_path, baselines):
    """A machine may be at hand for minutes: each op is measured by a command of its own."""
    rows, parts = complete()["rows"], []
    slower = [rows[0] | {"us": 300.0}]
    for number, part in enumerate((slower, rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        parts.append(tmp_path / f"{number}.json")
        parts[-1].write_text(json.dumps(complete(rows=part, date=f"2026-01-0{number + 1}")))
    code, _, _ = command(capsys, "--against", *parts, "--record")
    recorded_run = json.loads((baselines / "nvidia_a_gpu.json").read_text())
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    dated = [{**row, "date": "2026-01-02"} for row in first]
    assert code == 0 and recorded_run["rows"] == dated + second and recorded_run["date"] == "2026-01-03"
    again = baseline.merged([recorded_run, complete(rows=second[-1:], date="2026-01-04")])
    kept = ["2026-01-02"] * len(first) + ["2026-01-03"] * (len(second) - 1)
    assert [row.get("date") for row in again["rows"]] == [*kept, None] and again["date"] == "2026-01-04"
    assert report.dates(again).endswith(f"2026-01-04 for {second[-1]['op']}")
    assert report.dates(complete()) == complete()["date"]
    other = tmp_path / "other.json"
    for changed in ({"gpu": "NVIDIA B"}, {"versions": {"torch": "2.14"}}):
        other.write_text(json.dumps(complete() | changed))
        code, _, err = command(capsys, "--against", parts[0], other)
        (name,) = changed
        assert code == 2 and f"these are not parts of one run of ops: {name} is" in err
    other.write_text(json.dumps({"generated": []}))
    assert "one of these is no run of ops" in command(capsys, "--against", parts[0], other)[2]


@pytest.mark.parametrize("path", sorted(baseline.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_baselines_in_bridge_are_right_runs(path):
    run = baseline.load(baseline.RECORDED, json.loads(path.read_text())["gpu"])
    assert baseline.path_of(run["gpu"]) == path and report.regressions(run, run) == []
    keys = [report.key_of(row) for row in run["rows"]]
    assert {"deform_conv2d", "relu", "rope"} <= {op for op, _, _ in keys}  # ops may have got workloads since
    assert len(set(keys)) == len(keys) and all(row["right"] and row["us"] > 0 for row in run["rows"])
    assert set(run["ceilings"]) <= set(CEILINGS) and run["gpu"] in report.table(run)
    shares = re.findall(r" (\d+)%", report.table(run))
    assert shares and max(map(int, shares)) <= 100


def test_only_what_was_chosen_is_compared(baselines):
    baseline.record(complete())
    chosen = workloads.select(["rope"])
    before = baseline.load("recorded", "NVIDIA A GPU", chosen)
    assert len(before["rows"]) == len(chosen) and {row["op"] for row in before["rows"]} == {"rope"}
    assert len(baseline.load("recorded", "NVIDIA A GPU")["rows"]) == len(complete()["rows"])


def test_what_is_no_baseline_is_not_recorded(capsys, tmp_path, baselines):
    rows = complete()["rows"]
    name = ", ".join(rows[0][key] for key in ("op", "workload", "dtype"))
    for changed, text in [
        (rows[1:], f"this run lacks 1 of them, the first {name}: record without OP"),
        ([rows[0] | {"right": False}, *rows[1:]], f"not recorded: the results of {name} are"),
    ]:
        (tmp_path / "run.json").write_text(json.dumps(complete(rows=changed)))
        code, _, err = command(capsys, "--against", tmp_path / "run.json", "--record")
        assert code == 2 and text in err and not baselines.exists()


def test_an_op_newer_than_a_baseline_may_be_missing(capsys, tmp_path, baselines):
    rows, run = complete()["rows"], tmp_path / "run.json"
    older = [row for row in rows if row["op"] != "rope"]

    def recorded_of(kept):
        run.write_text(json.dumps(complete(rows=kept)))
        return command(capsys, "--against", run, "--record")

    assert recorded_of(older)[0] == 2  # nothing was recorded before: all must be there
    baselines.mkdir()
    (baselines / "nvidia_a_gpu.json").write_text(json.dumps(complete(rows=older)))
    assert recorded_of(older)[0] == 0
    partly = [*older, next(row for row in rows if row["op"] == "rope")]
    code, _, err = recorded_of(partly)
    assert code == 2 and "of them, the first rope, " in err
    assert recorded_of(rows)[0] == 0
    code, _, err = recorded_of(older)  # which would lose what was recorded
    assert code == 2 and "of them, the first rope, " in err


def test_only_a_whole_run_is_measured_for_a_record(capsys, monkeypatch, baselines):
    monkeypatch.setattr(measure, "run", lambda *rest: pytest.fail("measured"))
    code, _, err = command(capsys, "relu", "--record")
    assert code == 2 and "record without OP and --workload" in err
