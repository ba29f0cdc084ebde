"""What explain, ops --generated and eject tell of generated plugins."""

import json
import re
import shutil

import hand_written_ops as ops
import pytest
import torch
from generated_row import GENERATED

from bridge import cli
from bridge.base import log
from bridge.engine.explain import as_json_values, explain
from bridge.engine_file import generated_rows
from bridge.generate import folders, summary
from bridge.generate.build import build, plugin_name


@pytest.fixture
def counted():
    """The folder of a library with one small op."""
    return build([ops.counted()], ["sm86"])


def test_explain_has_a_line_for_every_plugin(make_engine_file):
    other = GENERATED | {"name": "acme::gate_0123456789ab", "operator": "acme::gate", "kernel_count": 30}
    file = make_engine_file(metadata={"generated": [GENERATED, other]})
    lines = explain(file).splitlines()
    place = lines.index("generated plugins: 2")
    assert re.split(" {2,}", lines[place + 1])[1:] == [
        "acme::norm",
        "acme::norm_0123456789ab",
        "1 region",
        "1 kernel",
        "2 launches",
        "workspace 256 bytes",
        "code 12.0 kB, 3.0 kB compressed",
        "library 400.0 kB, made in 1.5 s",
    ]
    assert "n.py:3, 2 variants" not in explain(file)
    assert as_json_values(file)["generated"] == [GENERATED, other]
    details = " ".join(explain(file, every_layer=True).split())
    assert "n.py:3, 2 variants" in details and "input x float16 [n0: 1 to 8, 64]" in details
    assert "input bias absent" in details and "any other extents" in details and "and 29 more" in details


def test_explain_of_an_engine_without_generated_plugins(make_engine_file):
    assert "generated" not in explain(make_engine_file())


def test_rows_are_bounded(counted):
    library = folders.read(counted)
    op = library.op(plugin_name(ops.counted()))
    many = {
        **op,
        "regions": [{"conditions": [f"n0 > {'9' * 400}"], "steps": [{"launch": []}] * 3}] * 50,
        "kernels": [
            op["kernels"][0] | {"function": f"f{index // 30}", "constants": {"B": str(index)}} for index in range(900)
        ],
    }
    described = folders.Generated(counted, {**library.description, "ops": [many]})
    (row,) = summary.rows_of(described, "sm86")
    generated_rows.check(row, "the row")
    assert (row["region_count"], row["kernel_count"]) == (50, 30)
    assert row["regions"][0]["launches"] == 3 and row["regions"][0]["conditions"].endswith(" …")
    assert len(json.dumps(row)) < 60_000


def test_the_code_of_a_row_is_what_the_target_runs(generated):
    library = folders.read(generated.folder)
    name = generated.names["rms_norm"]
    rows = {target: summary.row_of(library, name, target) for target in ("sm86", "sm89", "sm90", "sm120")}
    assert rows["sm86"]["cubin_bytes"] == rows["sm89"]["cubin_bytes"] > 2 * rows["sm86"]["compressed_bytes"] > 0
    assert rows["sm90"]["cubin_bytes"] != rows["sm86"]["cubin_bytes"]
    assert rows["sm120"]["cubin_bytes"] == 0
    assert rows["sm86"]["inputs"][0] == {"name": "x", "dtype": "float16", "shape": ["n0: 1 to 64", "n1: 16 to 4096"]}
    assert [region["launches"] for region in rows["sm86"]["regions"]] == [2, 2]
    assert summary.row_of(library, "other", "sm86") is None


def test_ops_lists_what_was_generated(counted, capsys):
    name = f"acme::{plugin_name(ops.counted())}"
    assert cli.main(["ops", "--generated", "--json", name]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name": name, "operator": "acme::counted", "targets": ["sm86"], "folder": str(counted)}.items() <= next(
        row for row in rows if row["folder"] == str(counted)
    ).items()
    assert cli.main(["ops", "--generated"]) == 0
    assert f"{name} acme::counted sm86 " in " ".join(capsys.readouterr().out.split())
    assert cli.main(["ops", "--generated", "acme::nothing"]) == 2
    assert "no plugin was generated from acme::nothing; there are some of acme::" in capsys.readouterr().err


def test_ops_of_an_empty_cache(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path))
    assert cli.main(["ops", "--generated"]) == 0
    assert "no plugin was generated yet" in capsys.readouterr().out


@pytest.fixture
def alone(counted, tmp_path, monkeypatch):
    """The library as the only one of a cache."""
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "cache"))
    return shutil.copytree(counted, tmp_path / "cache" / "generated" / "acme" / "key")


@pytest.mark.parametrize("name", ["acme::counted", plugin_name(ops.counted()), f"acme::{plugin_name(ops.counted())}"])
def test_eject(alone, tmp_path, capsys, name):
    assert cli.main(["eject", name, "-o", str(tmp_path / "mine")]) == 0
    out = capsys.readouterr().out
    source = tmp_path / "mine" / "csrc" / f"{plugin_name(ops.counted())}.cpp"
    assert str(source) in out.splitlines() and "cmake -S" in out
    assert source.read_text() == (alone / "sources" / source.name).read_text()


def test_what_cannot_be_ejected_is_named(alone, tmp_path, capsys):
    def refused(*arguments, code=7):
        assert cli.main(["eject", *arguments, "-o", str(tmp_path / "mine")]) == code
        return capsys.readouterr().err

    assert f"is called acme::norm; there are acme::{plugin_name(ops.counted())}" in refused("acme::norm", code=2)
    assert "is called acme::counted with code for sm90" in refused("acme::counted", "--target", "sm90")
    shutil.copytree(build([ops.rms_norm(torch.float32)], ["sm86"]), alone.parent / "one")
    shutil.copytree(build([ops.rms_norm(torch.bfloat16)], ["sm86"]), alone.parent / "two")
    assert "acme::rms_norm has several generated plugins, name one: acme::rms_norm_" in refused("acme::rms_norm")
    shutil.rmtree(alone / "sources")
    assert "has no sources, which `bridge build-ops --sources` writes" in refused("acme::counted")


def test_the_log_says_where_sources_are(counted, caplog):
    caplog.set_level("DEBUG", log.logger.name)
    build([ops.counted()], ["sm86"])
    assert f"sources of {plugin_name(ops.counted())}: {counted / 'sources'}" in caplog.text
