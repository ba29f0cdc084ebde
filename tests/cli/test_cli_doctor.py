"""bridge doctor: what is installed, what works, and what is broken."""

import json

import torch
from command_runs import run

import bridge
from bridge.cli import doctor
from bridge.tensorrt.install import flavour as flavours


def test_doctor(capsys):
    code, out, err = run(capsys, "doctor")
    assert err == ""
    assert all(word in out for word in ("versions", "GPUs", "libraries", "what works", torch.__version__))
    code_of_json, text, _ = run(capsys, "doctor", "--json")
    report = json.loads(text)
    assert code == code_of_json == (0 if report["usable"] else 1)
    assert [ability["name"] for ability in report["abilities"]] == list(doctor._ABILITIES)
    on_cpu = report["abilities"][0]
    assert on_cpu["works"]
    assert on_cpu["reason"] == ", ".join(sorted(bridge.OPS))


def test_doctor_without_libraries(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (1, "")
    assert f"not in {tmp_path}" in out


def test_doctor_without_tensorrt(capsys, monkeypatch):
    monkeypatch.setattr(flavours, "installed", lambda: [])
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "no TensorRT is installed; install tensorrt" in out


def test_doctor_where_everything_is_broken(capsys, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise RuntimeError("broken\nin two lines")

    (tmp_path / "libbridge_plugins.so").write_text("no library")
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    for owner, name in ((flavours, "installed"), (flavours, "detect"), (torch.cuda, "is_available")):
        monkeypatch.setattr(owner, name, broken)
    monkeypatch.setattr(doctor.importlib.metadata, "version", broken)
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (1, "")
    assert "RuntimeError: broken in two lines" in out
    assert "does not load" in out
