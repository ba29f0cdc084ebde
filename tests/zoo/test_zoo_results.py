"""Results of the zoo: differences, memory and tables."""

import dataclasses
import os

import pytest
import torch
from zoo_models import ZOO
from zoo_results import RESULT

from bridge.engine.timing import Timing
from bridge.zoo import failures, memory, subject, table
from bridge.zoo.measuring_lock import MeasuringLock


def test_differences():
    x = torch.randn(2, 5, 3)
    rows = x[:, [3, 1, 0, 2, 4]]
    assert subject.largest_difference((x,), (x,)) == 0 < subject.largest_difference(rows, x)
    assert subject.largest_difference(x + 0.5 * x.abs().max(), x) == pytest.approx(0.5)
    assert torch.tensor(subject.largest_difference(x * torch.nan, x)).isnan()


def test_differences_of_chosen_rows():
    """Rows of all results belong together; one of twenty may be another choice, three may not."""
    x, y = torch.randn(2, 20, 3), torch.randn(2, 20, 2, 4)
    order = torch.randperm(20)

    def difference(x_, y_):
        return subject.largest_difference((x_, y_), (x, y), unordered=True)

    assert difference(x[:, order], y[:, order]) == 0
    assert difference(x[:, order], y) > 0.1
    assert difference(x + 0.01 * x.abs().max(), y) == pytest.approx(0.01, rel=1e-4)
    for others, allowed in ((1, 0), (3, 0.1)):
        changed = x.index_fill(1, torch.arange(others), 9.0)
        assert (difference(changed[:, order], y[:, order]) > allowed) == (allowed > 0)
    assert difference(x[:, :1].expand_as(x), y[:, :1].expand_as(y)) > 0.1  # each has a nearest row
    assert torch.tensor(difference(x.index_fill(2, torch.tensor(1), torch.nan), y)).isnan()


def test_first_lines_of_errors():
    assert failures.first_line(ValueError("\n  one \ntwo")) == "ValueError: one"
    assert failures.first_line(KeyError()) == "KeyError: no message"


def test_the_memory_of_a_process():
    assert memory.of_process(["7, 100", "12, 600", "7, 20"], 7) == 120
    assert memory.of_process(["12, 600"], 7) is None and memory.of_process([], 7) is None
    assert memory.of_process(["7, [N/A]"], 7) is None and memory.of_process(["No devices were found"], 7) is None


def test_memory_is_not_known_without_the_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory.used() is None
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{os.getpid()}, 42'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert memory.used() == 42
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert memory.used() is None


def test_memory_of_a_way(monkeypatch):
    """What the process had before does not count; weights that the backend shares with the model do."""
    model = torch.nn.Linear(1024, 1024, bias=False)
    linear = subject.Subject(ZOO[0], subject.Model(model, (), {}, None), None, None, MeasuringLock(), used=100)
    monkeypatch.setattr(subject, "time_loop", lambda call: Timing(1.0, 1.0, 1.0, 0.0))
    monkeypatch.setattr(memory, "used", lambda: 150)
    assert linear.timing(model)["memory_mib"] == 50
    assert linear.timing(model, own_weights=False)["memory_mib"] == 54
    assert "memory_mib" not in dataclasses.replace(linear, used=None).timing(model)
    monkeypatch.setattr(memory, "used", lambda: None)
    assert "memory_mib" not in linear.timing(model)


def test_tables():
    cells = dict(zip(table.HEADER, table.cells(RESULT["rows"][0]), strict=True))
    assert cells == {
        **{"model": "one", "parameters": "1.5 M", "plugin layers": "2 rope", "engines": "1", "graph breaks": "0"},
        **{"graph error": "0", "error": "1.0e-03", "eager": "20", "Inductor": "failed", "bridge": "0.9, CUDA graph"},
        **{"torch_tensorrt": "3 (3 engines, 2 breaks)", "native layers": "1.5", "ratio": "1.67 (native layers)"},
    }
    assert table.memory(RESULT)[1:] == [("one", "768", "1024", "640", "", "512")]
    without = [{**row, "ways": {}} for row in RESULT["rows"]]
    assert table.memory({**RESULT, "rows": without}) == [] and "GPU memory, MiB" in table.text(RESULT)
    assert "memory" not in table.markdown([{**RESULT, "rows": without}])
    late = {"ways": {"torch_tensorrt": {"failed": f"{table.NOT_DONE} after 5 s"}}, "model": "late"}
    assert dict(zip(table.HEADER, table.cells(late), strict=True))["torch_tensorrt"] == "not done"
    assert table.environment_text(RESULT).startswith(
        "NVIDIA A GPU, driver 1.2, torch 2.11, tensorrt_rtx 1.7, 2026-01-02, full"
    )
    assert table.failure_lines(RESULT) == ["one, inductor: RuntimeError: a | b", "two: not begun"]
    assert not table.all_compiled(RESULT) and table.all_compiled({**RESULT, "rows": RESULT["rows"][:1]})
    markdown = table.markdown([RESULT])
    rows = [line for line in markdown.partition("### GPU memory")[0].splitlines() if line.startswith("|")]
    assert (
        len(rows) == 4
        and "| one | 768 | 1024 | 640 |  | 512 |" in markdown
        and {line.replace("\\|", "").count("|") for line in rows} == {len(table.HEADER) + 1}
    )
    assert "- one: `--x 1`, a size, float16, 2x3 and 4" in markdown and "- two: not begun" in markdown
