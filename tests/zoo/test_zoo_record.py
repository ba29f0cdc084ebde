"""Runs of the zoo put together, and recorded beside the models."""

import json

import pytest
from zoo_results import RESULT

from bridge import cli
from bridge.zoo import entries, record, table

ROW = RESULT["rows"][0]
NEXT_DAY = {**RESULT, "date": "2026-01-03"}


def named(name, us=1000.0):
    return {"model": name, "argv": [], "ways": {"bridge": {"us": us}}}


def rows_of(runs):
    return [(run["date"], [row["model"] for row in run["rows"]]) for run in runs]


def test_a_run_of_another_machine_is_recorded(tmp_path, capsys):
    (tmp_path / "zoo.json").write_text(json.dumps(RESULT))
    arguments = ["zoo", "--against", str(tmp_path / "zoo.json"), "--models", str(tmp_path), "--record"]
    assert cli.main(arguments) == 1  # a model has no engine
    assert "NVIDIA A GPU" in capsys.readouterr().out
    assert (tmp_path / "README.md").read_text() == table.markdown([RESULT])
    assert record.read(tmp_path) == [RESULT]
    assert cli.main(arguments) == 1 and record.read(tmp_path) == [RESULT]  # the same once more


def test_a_record_keeps_models_that_a_later_run_did_not_measure(tmp_path):
    first, later = tmp_path / "first.json", tmp_path / "later.json"
    first.write_text(json.dumps({**RESULT, "rows": [named("a"), named("b"), named("c")]}))
    rows = [named("b", 2000.0), named("d"), {"model": "a", "argv": [], "failed": "no"}]
    later.write_text(json.dumps({**NEXT_DAY, "rows": rows}))
    for path in (first, later):
        cli.main(["zoo", "--against", str(path), "--models", str(tmp_path), "--record"])
    assert rows_of(record.read(tmp_path)) == [("2026-01-03", ["b", "d", "a"]), ("2026-01-02", ["a", "c"])]
    text = (tmp_path / "README.md").read_text()
    assert text.index("## NVIDIA A GPU, 2026-01-03") < text.index("| b |") < text.index("## NVIDIA A GPU, 2026-01-02")
    assert text.count("| b |") == 1 and "- a: no" in text


def test_the_newest_results_stay_though_an_older_run_is_recorded_later():
    newest, older = {**NEXT_DAY, "rows": [named("a"), named("b")]}, {**RESULT, "rows": [named("a"), named("c")]}
    runs = record.with_run([newest], older)
    assert rows_of(runs) == [("2026-01-03", ["a", "b"]), ("2026-01-02", ["c"])]
    assert rows_of(record.with_run(runs, {**NEXT_DAY, "date": "2026-01-04", "rows": [named("c")]})) == [
        ("2026-01-04", ["c"]),
        ("2026-01-03", ["a", "b"]),
    ]


@pytest.mark.parametrize("other", [{"gpu": "NVIDIA Another"}, {"full": False}])
def test_other_gpus_and_sizes_have_tables_of_their_own(other):
    runs = record.with_run([RESULT], {**NEXT_DAY, **other})
    assert [[row["model"] for row in run["rows"]] for run in runs] == [["one", "two"], ["one", "two"]]
    text = table.markdown(runs)
    assert text.count("| one | 1.5 M |") == 2 and text.count("Weights are random") == 1
    assert ("small configurations\n" in text) == ("full" in other)


def test_a_run_of_the_same_day_goes_on_with_the_recorded_one():
    more = {**RESULT, "rows": [{**ROW, "ways": {"eager": {"us": 5.0}}}, named("three")]}
    (run,) = record.with_run([RESULT], more)
    assert rows_of([run]) == [("2026-01-02", ["one", "two", "three"])]
    assert run["rows"][0]["ways"] == {**ROW["ways"], "eager": {"us": 5.0}}
    assert len(record.with_run([RESULT], {**more, "driver": "another"})) == 2


def test_a_note_on_a_run_stands_in_its_table(tmp_path):
    record.write(tmp_path, [{**RESULT, "note": "Of another loop."}])
    assert "full configurations.\n\nOf another loop.\n\n| model |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', '{"schema": 9, "runs": []}'])
def test_a_record_that_is_none_is_not_overwritten(tmp_path, capsys, content):
    (tmp_path / record.FILE).write_text(content)
    (tmp_path / "zoo.json").write_text(json.dumps(RESULT))
    assert cli.main(["zoo", "--against", str(tmp_path / "zoo.json"), "--models", str(tmp_path), "--record"]) == 2
    assert record.FILE in capsys.readouterr().err
    assert (tmp_path / record.FILE).read_text() == content and not (tmp_path / "README.md").exists()


def test_later_runs_of_a_model_take_the_place_of_earlier_ones(tmp_path, capsys):
    first, later, other = (tmp_path / f"{name}.json" for name in ("first", "later", "other"))
    first.write_text(json.dumps(RESULT))
    backends = ROW["ways"] | {"inductor": {"us": 7000.0, "graph_breaks": 0}}
    rows = [{**ROW, "ways": backends}, {**ROW, "model": "three", "ways": backends}]
    later.write_text(json.dumps({**NEXT_DAY, "rows": rows}))
    other.write_text(json.dumps({**RESULT, "gpu": "NVIDIA Another"}))
    cli.main(["zoo", "--models", str(tmp_path), "--against", str(first), str(later)])
    lines = capsys.readouterr().out.splitlines()
    assert "2026-01-03" in lines[0] and [line.split()[0] for line in lines[3:6]] == ["one", "two", "three"]
    assert " 7 " in lines[3] and "failed" not in lines[3]
    assert cli.main(["zoo", "--models", str(tmp_path), "--against", str(first), str(other)]) == 2
    assert "has gpu NVIDIA Another" in capsys.readouterr().err


def test_ways_that_a_later_run_has_no_result_of_are_kept():
    row = {**ROW, "failed": "not done after 9 s"}
    first = {**RESULT, "rows": [row]}
    backends = {
        "eager": {"us": 7000.0},
        "inductor": {"failed": "not done after 3 s"},
        "native": {"failed": "RuntimeError"},
    }
    later = {**RESULT, "rows": [{"model": "one", "argv": row["argv"], "ways": backends}]}
    assert record.together({"first": first, "later": later})["rows"] == [
        {
            **{name: value for name, value in row.items() if name != "failed"},
            "ways": {**row["ways"], "eager": backends["eager"], "native": backends["native"]},
        }
    ]
    other = {"model": "one", "argv": ["--another"], "ways": backends}
    assert record.together({"first": first, "later": {**RESULT, "rows": [other]}})["rows"] == [other]


def test_the_tables_of_the_models_are_those_of_their_record():
    folder = entries.folder()
    assert (folder / "README.md").read_text() == table.markdown(record.read(folder))
