"""Pictures of bridge bench: growth and the roofline."""

import json
import sys
from importlib.util import find_spec

import pytest
from bench_rows import command, recorded, row

from bridge.bench import measure, plots

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")


def grown(unit="tokens", sizes=(64, 4, 1), **changes):
    return [row(f"{unit} {size}", float(size), floor_us=size / 2, **changes) for size in sizes]


def drawn(axis):
    """Label → (x, y) of every line of a panel."""
    return {line.get_label(): [list(map(float, data)) for data in line.get_data()] for line in axis.lines}


@needs_matplotlib
def test_each_series_is_drawn_with_its_floor():
    run = recorded(*grown(), *grown(dtype="float32", sizes=(2, 8)), *grown("side", op="rope"), row("large"))
    relu, rope, _ = plots.draw(run).axes
    lines = drawn(relu)
    assert lines["bridge, float16"] == [[1, 4, 64], [1, 4, 64]]
    assert lines["floor, float16"] == [[1, 4, 64], [0.5, 2, 32]]
    assert lines["floor, float32"] == [[2, 8], [1, 4]] and lines["eager, float32"] == [[2, 8], [4, 16]]
    assert (relu.get_title(), relu.get_xlabel(), rope.get_title(), rope.get_xlabel()) == (
        "relu",
        "tokens",
        "rope",
        "side",
    )


def test_a_series_says_what_else_its_rows_have_in_common():
    names = ["regions 8, NCHW", "regions 1, NCHW", "regions 1, channels-last", "stage 4, one image", "decode, 4"]
    found = plots.growth([row(name, op="roi_align") for name in names])
    assert list(found) == [("roi_align", "regions")]
    assert [size for size, _ in found["roi_align", "regions"].pop("float16, NCHW")] == [1, 8]
    assert not found["roi_align", "regions"]


@needs_matplotlib
def test_a_peer_that_is_missing_at_a_size_is_left_out_there():
    rows = grown()
    rows[1]["peers"] = {"eager": {"missing": "no"}, "late": {"us": 5.0, "bound": True}}
    lines = drawn(plots.draw(recorded(*rows)).axes[0])
    assert lines["eager, float16"] == [[1, 64], [2, 128]] and lines["late, float16"] == [[4], [5]]


@needs_matplotlib
def test_the_roofline_has_measured_ceilings_and_points():
    product = row("large", 100.0, op="deform_conv2d", flops=10**10, bytes=10**8)
    products, others = plots.draw(recorded(product, row("many", 50.0, bytes=10**8))).axes
    roof = drawn(products)["ceiling, float16"]
    ridge = roof[0].index(200.0)  # 8e8 operations and 4e6 bytes a microsecond
    assert roof[1][ridge] == pytest.approx(800.0) and roof[1][-1] == pytest.approx(800.0)
    assert roof[1][0] == pytest.approx(roof[0][0] * 4.0)
    assert drawn(products)["_deform_conv2d, float16"] == [[100.0], [100.0]]
    assert drawn(others)["_relu, float16"] == [[10**8], [2.0]]
    names = [text.get_text() for text in others.get_legend().get_texts()]
    assert names == ["copy and launch", "float16", "relu"]
    limit = drawn(others)["copy and launch"]
    assert limit[0][1] == pytest.approx(4e6) and limit[1][1:] == pytest.approx([4.0, 4.0])


@needs_matplotlib
@pytest.mark.parametrize("rows", [grown(), [row(op="rope", flops=5)], grown("side") * 2 + grown("tokens", op="rope")])
def test_a_recorded_run_becomes_a_picture(capsys, tmp_path, rows):
    run, picture = tmp_path / "run.json", tmp_path / "run.png"
    run.write_text(json.dumps(recorded(*rows)))
    assert command(capsys, "--against", run, "--plot", picture)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000


@needs_matplotlib
def test_nothing_to_draw(capsys, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(recorded()))
    code, _, err = command(capsys, "--against", tmp_path / "run.json", "--plot", tmp_path / "run.png")
    assert code == 2 and "the run has no rows to draw" in err and not (tmp_path / "run.png").exists()


def test_without_matplotlib_nothing_is_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(measure, "run", lambda *rest: pytest.fail("measured"))
    code, _, err = command(capsys, "relu", "--plot", tmp_path / "run.png")
    assert code == 7 and "--plot needs matplotlib" in err and "pip install 'bridge-tensorrt[bench]'" in err
