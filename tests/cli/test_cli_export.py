"""bridge export and bridge verify: what they print, and their exit codes."""

import json

import pytest
from command_runs import run

from bridge.export import verify
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import Flavour


def test_export_lists_what_it_wrote(saved, tmp_path, capsys, make_engine_file):
    code, out, err = run(capsys, "export", saved, "--to", "plan", "-o", tmp_path / "net")
    assert (code, err) == (0, "") and out.split() == [str(tmp_path / "net/model.plan"), "1.0", "kB"]
    assert (tmp_path / "net/model.plan").read_bytes() == make_engine_file().engine
    code, _, err = run(capsys, "export", saved, "-o", tmp_path / "net")
    assert code == 5 and "is not empty; name another one, or replace it with --force" in err
    assert run(capsys, "export", saved, "-o", tmp_path / "net", "--force")[0] == 0
    assert run(capsys, "export", tmp_path / "gone.engine", "-o", tmp_path / "other")[0] == 5
    assert not (tmp_path / "other").exists()


def test_export_without_a_library(tmp_path, capsys, make_engine_file):
    make_engine_file(plugins={"acme::corr": "1"}).save(tmp_path / "a.engine")
    code, _, err = run(capsys, "export", tmp_path / "a.engine", "-o", tmp_path / "net")
    assert code == 7 and "there is no library acme" in err and not (tmp_path / "net").exists()


def test_verify_of_an_engine_on_its_machine(saved, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "current_target", lambda: "sm86")
    monkeypatch.setattr(gpu, "name_of", lambda target: "NVIDIA A10")
    monkeypatch.setattr(verify, "detect", lambda: Flavour("tensorrt_rtx", "1.7.2", None))
    code, out, err = run(capsys, "verify", saved)
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["ok", "file"],
        ["ok", "libraries"],
        ["ok", "TensorRT"],
        ["ok", "GPU"],
    ]


def test_verify_of_an_engine_for_another_machine(saved, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "current_target", lambda: "sm90")
    monkeypatch.setattr(gpu, "name_of", lambda target: "NVIDIA H200")
    monkeypatch.setattr(verify, "detect", lambda: Flavour("tensorrt", "10.15.1.29", None))
    code, out, err = run(capsys, "verify", saved)
    assert code == 7
    assert err == "bridge: the engine needs tensorrt_rtx 1.7.1.116; installed here is tensorrt 10.15.1.29\n"
    assert "FAILED  GPU        the engine is for sm86; the GPU here, NVIDIA H200, is sm90" in out.splitlines()
    assert run(capsys, "verify", saved, "--files")[::2] == (0, "")


def test_verify_as_json(saved, capsys, tmp_path):
    run(capsys, "export", saved, "-o", tmp_path / "net")
    code, out, err = run(capsys, "verify", tmp_path / "net", "--files", "--json")
    rows = json.loads(out, parse_constant=pytest.fail)
    assert (code, err) == (0, "") and all(row["passed"] for row in rows)
    assert [row["check"] for row in rows] == ["manifest", "plan", "library", "library", "other files"]


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_verify_of_what_is_no_engine(capsys, tmp_path, content):
    (tmp_path / "a.engine").write_bytes(content)
    code, out, err = run(capsys, "verify", tmp_path / "a.engine")
    assert code == 5 and out.startswith("FAILED  file  ") and err.startswith(f"bridge: {tmp_path / 'a.engine'}: ")


def test_verify_of_nothing(capsys, tmp_path):
    assert run(capsys, "verify", tmp_path / "gone")[0] == 5
    code, _, err = run(capsys, "verify", tmp_path)
    assert code == 5 and err == f"bridge: {tmp_path} is no exported folder: manifest.json: No such file or directory\n"


def test_export_of_a_plan_without_its_libraries_as_one_file(saved, tmp_path, capsys):
    code, _, err = run(capsys, "export", saved, "--embed", "-o", tmp_path / "net")
    assert code == 5 and "the plan holds no plugin library; one is put into it when it is built" in err
    assert not (tmp_path / "net").exists()
