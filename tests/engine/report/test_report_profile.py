"""The measured times that `bridge report --profile` takes: from which files, of which layers."""

import json

import pytest

from bridge.cli import main
from bridge.engine.report import data, measured, network

NAMES = ["relu_1", "cast_2"]


@pytest.fixture
def written(tmp_path):
    """Writes a profile and returns its path."""

    def write(content):
        path = tmp_path / "profile.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        [{"name": "relu_1", "time_ms": 0.5}],
        [{"name": "relu_1", "us": 500, "op": "relu", "share": 1.0}],
        {"gpu": "H200", "layers": [{"name": "relu_1", "us": 500.0}]},
        {"profile": [{"name": "relu_1", "time_us": 500}]},
        [{"count": 20}, {"name": "relu_1", "timeMs": 10.0, "averageMs": 0.7, "medianMs": 0.5, "percentage": 100.0}],
    ],
)
def test_forms_of_a_profile(written, content):
    assert measured.read(written(content), NAMES) == [measured.Row("relu_1", 500.0, ("relu_1",))]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("relu_1 + cast_2", ("relu_1", "cast_2")),
        ("PWN(relu_1)", ("relu_1",)),
        ("{ForeignNode[relu_1...cast_2]}", ("relu_1", "cast_2")),
        ("relu_12", ()),
        ("Reformatting CopyNode for Input Tensor 0 to relu_1", ()),
    ],
)
def test_names_of_joined_layers(written, name, layers):
    (row,) = measured.read(written([{"name": name, "time_ms": 1}]), NAMES)
    assert row.layers == layers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no list of measured layers"),
        ("[" * 100_000, "is no list of measured layers"),
        (3, "expected a list"),
        ({"rows": []}, "expected a list"),
        ([], "holds no measured layer"),
        (["relu_1"], "row 0 must be dict, not str"),
        ([{"time_ms": 1}], "the name of row 0 must be str"),
        ([{"name": "relu_1", "seconds": 1}], "row 0 has none of time_ms, us"),
        ([{"name": "a", "us": 1}, {"name": "b", "us": -1}], "us of row 1 is -1; expected a time, at least 0"),
        ('[{"name": "a", "us": NaN}]', "us of row 0 is nan"),
        ([{"name": "a", "us": True}], "us of row 0 is True"),
    ],
)
def test_what_is_no_profile(written, content, message):
    path = written(content)
    with pytest.raises(ValueError, match=message) as caught:
        measured.read(path, NAMES)
    assert str(path) in str(caught.value)


def test_times_and_shares_of_layers(make_engine_file, written):
    file = make_engine_file()
    content = [{"name": "relu_1", "us": 30}, {"name": "relu_1 + cast_2", "us": 50}, {"name": "Reformat", "us": 20}]
    rows = measured.read(written(content), NAMES)
    items = {item["name"]: item for item in data.values(file, network.of_file(file), rows)["items"]}
    assert (items["relu_1"]["us"], items["relu_1"]["share"], items["relu_1"]["together"]) == (80.0, 0.8, 2)
    assert (items["cast_2"]["us"], items["cast_2"]["share"], items["cast_2"]["together"]) == (50.0, 0.5, 2)
    assert "us" not in items["x"]


def test_the_page_has_the_times(make_engine_file, written, tmp_path, capsys):
    make_engine_file().save(tmp_path / "a.engine")
    profile = written([{"name": "relu_1", "us": 30}, {"name": "Reformat <x>", "us": 20.04}])
    output = tmp_path / "a.html"
    assert main(["report", str(tmp_path / "a.engine"), "-o", str(output), "--profile", str(profile)]) == 0
    page = output.read_text()
    assert '"us":30' in page and "Reformat &lt;x&gt;" in page and "20.0" in page
    assert "0.050 ms in 2 layers" in page
