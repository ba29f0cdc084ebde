"""bridge explain: an engine in words and as JSON."""

import json

import pytest
from command_runs import run

from bridge.engine.explain import as_json_values, explain


def test_explain(capsys, saved):
    code, out, err = run(capsys, "explain", saved)
    assert (code, err) == (0, "")
    for line in (
        "model    Größe, 7 parameters",
        "engine   1.0 kB for sm86, tensorrt_rtx 1.7.1.116, built in 1.2 s",
        "  x        float16  [1, 3, 0]  [4, 3, 8]  [16, 3, 64]",
        "  y         bfloat16  [?, 3, ?]",
        "plugin layers: 1 relu",
        "  relu_1  relu(x)  negative_slope=0.1, max_value=inf  float16 [?, 3, ?]",
    ):
        assert line in out.splitlines()
    assert "cast_2" not in out
    assert "  CAST         bfloat16 [?, 3, ?]  cast_2" in run(capsys, "explain", saved, "--layers")[1].splitlines()


def test_explain_as_json(capsys, saved, make_engine_file):
    shown = json.loads(run(capsys, "explain", saved, "--json")[1], parse_constant=pytest.fail)
    assert shown == as_json_values(make_engine_file()) | {
        "inputs": [
            {"name": "x", "dtype": "float16", "min": [1, 3, 0], "opt": [4, 3, 8], "max": [16, 3, 64]},
            {"name": "n", "dtype": "int64", "min": [], "opt": [], "max": []},
        ]
    }
    assert shown["plugin_counts"] == {"relu": 1}
    assert shown["layers"][0]["attributes"]["max_value"] == "inf"


def test_explain_knows_less_of_an_engine_that_says_less(make_engine_file):
    bare = make_engine_file(metadata={}, layers=[{"name": "a\x1b[2Jb", "type": "CAST"}], plugins={})
    text = explain(bare, every_layer=True)
    assert "model" not in text
    assert "plugin layers: 0" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_explain_of_what_is_no_engine(capsys, tmp_path, content):
    path = tmp_path / "a.engine"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run(capsys, "explain", path)
    assert (code, out) == (5, "")
    assert err.startswith(f"bridge: {path}: ")


def test_explain_of_a_damaged_engine(capsys, saved):
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    saved.write_bytes(content)
    code, _, err = run(capsys, "explain", saved)
    assert code == 5
    assert "damaged: its checksum is" in err
